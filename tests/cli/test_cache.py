"""Compiled programs are kept from one process to the next."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import collections, json
import jax
from gelato_jax.cli.cache import keep_programs

events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rsplit("/", 1)[-1]]))
keep_programs()
array = jax.numpy.ones((8, 8))
jax.jit(lambda x: jax.numpy.tanh(x @ x).sum())(array).block_until_ready()
print(json.dumps({name: events[name] for name in ("compile_requests_use_cache", "cache_hits", "cache_misses")}))
"""


@pytest.fixture
def start(tmp_path):
    """Run the program in a process of its own: (programs asked for, loaded, compiled), standard error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GELATO_CACHE": str(tmp_path)}

    def start() -> tuple[tuple[int, ...], str]:
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return tuple(json.loads(done.stdout).values()), done.stderr

    return start


def test_a_second_process_loads_what_the_first_compiled(start):
    """On a CPU whose programs XLA never reloads (jax issue 38445) this fails, as it should."""
    (asked, loaded, compiled), _ = start()
    assert (loaded, compiled) == (0, asked)
    assert start() == ((asked, asked, 0), "")


def test_programs_that_cannot_be_loaded_are_replaced_and_told_of_in_one_line(start, tmp_path):
    (asked, _, _), _ = start()
    files = list((tmp_path / "xla").glob("*-cache"))
    assert len(files) == asked > 1
    for file in files:
        file.write_bytes(b"no program")
    figures, error = start()
    assert figures == (asked, 0, asked)
    assert error.startswith(f"gelato: programs kept in {tmp_path / 'xla'} could not be loaded")
    assert error.count("\n") == 1
    assert start() == ((asked, asked, 0), "")
