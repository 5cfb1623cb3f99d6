"""`gelato edge` as a process of its own, for benchmarks of two."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

from gelato_jax.errors import GelatoError
from gelato_jax.remote.client import EdgeClient


@contextlib.contextmanager
def edge(
    model: str, address: str, *options: str, at: Callable[..., list[str]] = lambda *command: [*command]
) -> Iterator[EdgeClient]:
    """Start one, and connect to it; it is killed in the end.

    Args:
        model: its target.
        address: `HOST:PORT`; no proxy is taken to it.
        *options: of `gelato edge` besides.
        at: the command line that runs a command where the edge is to be; here if not given.

    Raises:
        GelatoError: it does not start.
    """
    program = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]
    command = at(*program, "edge", "--model", model, "--listen", address, *options)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if not any("is served on" in line for line in process.stderr):
            raise GelatoError(f"gelato edge --model {model} --listen {address} does not start")
        os.environ["no_proxy"] = address.rpartition(":")[0]
        client = EdgeClient(address)
        try:
            yield client
        finally:
            client.close()
            process.kill()
