"""What an engine is and is held to, how one of others is found missing, and the machine that all run on."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from gelato_jax.errors import GelatoError

LOOKUP = 2
"""Tokens that prompt lookup drafts: what llama-cpp-python's README advises without a GPU; in transformers the same."""
_INSTALL = 'pip install "gelato-jax[bench]"'
_ROOM = 16  # slots beyond prompt and answer, for drafts that run over the end
_DISTRIBUTIONS = {
    "gelato_jax": "gelato-jax",
    "jax": "jax",
    "llama_cpp": "llama-cpp-python",
    "torch": "torch",
    "transformers": "transformers",
}
"""Module -> what pip calls its package."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """Something that decodes: a name, and prompt ids in, greedy ids out, the end token included."""

    name: str
    decode: Callable[[Sequence[int]], list[int]]


@dataclasses.dataclass(frozen=True)
class Request:
    """What every engine is held to.

    Attributes:
        max_new_tokens: generated at most.
        eos_ids: tokens that end an answer.
        threads: of a CPU.
        longest: tokens of the longest prompt.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    threads: int
    longest: int

    @property
    def slots(self) -> int:
        """Positions that a cache needs."""
        return self.longest + self.max_new_tokens + _ROOM


class LeftOut(Exception):
    """An engine cannot take part; the message is a line that says why, and the fix."""


def require(*modules: str) -> None:
    """Look whether what an engine needs is installed; nothing is imported.

    Raises:
        LeftOut: a package is not installed.
    """
    absent = [_DISTRIBUTIONS[module] for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        are = "is" if len(absent) == 1 else "are"
        raise LeftOut(f"{' and '.join(absent)} {are} not installed; {_INSTALL}")


def use_threads(threads: int | None) -> int:
    """Hold this process to so many cores, before JAX starts: ours takes every core that it may use.

    Args:
        threads: how many; None is all.

    Returns:
        How many.

    Raises:
        GelatoError: there are not so many, or this system cannot hold a process to some.
    """
    can_choose = hasattr(os, "sched_setaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_choose else list(range(os.cpu_count() or 1))
    if threads is None or threads == len(cores):
        return len(cores)
    if not 1 <= threads <= len(cores):
        raise GelatoError(f"--threads is {threads}, must be in 1..{len(cores)}, the cores that this process may use")
    if not can_choose:
        raise GelatoError(f"--threads {threads}: this system cannot hold a process to some cores; leave it out")
    os.sched_setaffinity(0, cores[:threads])
    return threads


def versions() -> dict[str, str]:
    """Versions of the packages that take part, those that are installed."""
    found = {}
    for package in _DISTRIBUTIONS.values():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
