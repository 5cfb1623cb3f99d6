"""Engines for `test_bench_peers.py`, in a module because another process imports them."""

import os
import signal

from gelato_experiments.benchmarks.peers.engine import Engine, LeftOut


def counting(step: int, end: int) -> list[Engine]:
    """An engine that counts on from a prompt's last id, fails at an empty prompt, and dies at the prompt [`end`]."""

    def decode(ids):
        if list(ids) == [end]:
            os.kill(os.getpid(), signal.SIGSEGV)
        return [ids[-1] + step]

    return [Engine("counting", decode)]


def dying() -> list[Engine]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def broken() -> list[Engine]:
    raise RuntimeError("libllama.so: cannot open\nmore")


def without() -> list[Engine]:
    raise LeftOut("no floats; name others")
