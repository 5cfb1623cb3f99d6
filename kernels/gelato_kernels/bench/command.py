"""What the two commands share: how a mistake ends, and what is said while they work."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import NoReturn

MISTAKE, INTERRUPTED = 2, 130
QUIET_S = 2.0
"""A run that is over by then says nothing."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2."""
        self.exit(MISTAKE, f"{self.prog.removeprefix('python -m ')}: error: {message}; see --help\n")


class SlowLines:
    """Lines on standard error, once a run has taken `QUIET_S`."""

    def __init__(self, prog: str) -> None:
        """Start the clock."""
        self._prog = prog
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        """Say it."""
        if time.monotonic() - self._start > QUIET_S:
            print(f"{self._prog}: {line}", file=sys.stderr, flush=True)


def guarded(prog: str, work: Callable[[], int]) -> int:
    """Exit code of `work`; a user's mistake (`ValueError`, `OSError` of one line) is one line and 2."""
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        if not message or "\n" in message:
            raise
        print(f"{prog}: error: {message}", file=sys.stderr)
        return MISTAKE
