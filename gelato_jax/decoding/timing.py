"""Seconds of compiled programs on this machine."""

import time
from collections.abc import Callable

import jax


def alternate(*programs: Callable[[], object], calls: int) -> list[list[float]]:
    """Time programs in turn, so that a machine that slows down slows all of them.

    Args:
        programs: compiled functions at hand, without arguments.
        calls: of each, after one of each that does not count: it compiles.

    Returns:
        For each program the seconds of its calls.
    """
    times: list[list[float]] = [[] for _ in programs]
    for call in range(calls + 1):
        for seconds, program in zip(times, programs, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program())
            if call:
                seconds.append(time.perf_counter() - start)
    return times
