"""How a call is timed: warmed up, waited for, in rounds long enough for the clock, alternating with its rivals."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: of a call.
        round_s: that a round lasts at least, in seconds; calls are repeated within it.
        copied_bytes: of the array whose copying tells the memory's speed; more than any cache holds.
    """

    rounds: int
    round_s: float
    copied_bytes: int


FULL = Effort(rounds=40, round_s=5e-3, copied_bytes=2**28)
QUICK = Effort(rounds=5, round_s=1e-3, copied_bytes=2**25)


class Sample(NamedTuple):
    """Seconds of one call, over rounds."""

    median: float
    minimum: float


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / repeats


def _repeats(seconds: Callable[[int], float], round_s: float) -> int:
    """How many calls make a round, given what one takes in a round of so many; warms up on the way."""
    seconds(1)
    repeats = 1
    while (lasted := seconds(repeats) * repeats) < round_s:
        repeats = max(2 * repeats, math.ceil(1.1 * repeats * min(round_s / lasted, 100.0)))
    return repeats


def alternate(calls: Mapping[str, Callable[[], Any]], effort: Effort) -> dict[str, Sample]:
    """Time calls, one round of each in turn, so that what slows the machine down slows all of them.

    Args:
        calls: of no arguments, compiled; each is waited for.
        effort: how long.

    Returns:
        Sample by name.
    """
    repeats = {name: _repeats(lambda n, call=call: _seconds(call, n), effort.round_s) for name, call in calls.items()}
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(effort.rounds):
        for name, call in calls.items():
            rounds[name].append(_seconds(call, repeats[name]))
    return {name: Sample(float(np.median(taken)), min(taken)) for name, taken in rounds.items()}


def in_a_loop(call: Callable[..., Any], inputs: dict[str, Any], effort: Effort) -> float:
    """Median seconds of a call inside one compiled loop, as a decoder runs it: no launch from Python, no waiting.

    Args:
        call: of the inputs, as keyword arguments; traced.
        inputs: arrays.
        effort: how long.
    """

    @jax.jit
    def loop(repeats: Array, inputs: dict[str, Any]) -> Array:
        def body(_: Array, carry: Array) -> Array:
            # Tied to what changes, or the call would be moved out of the loop; and whole, or only a corner computed.
            held, carry = lax.optimization_barrier((inputs, carry))
            result = lax.optimization_barrier(call(**held))
            return carry + sum(leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(result))

        return lax.fori_loop(0, repeats, body, jnp.zeros(()))

    def seconds(repeats: int) -> float:
        start = time.perf_counter()
        loop(jnp.int32(repeats), inputs).block_until_ready()
        return (time.perf_counter() - start) / repeats

    repeats = _repeats(seconds, effort.round_s)
    return float(np.median([seconds(repeats) for _ in range(max(3, effort.rounds // 4))]))


def copy_bandwidth(effort: Effort) -> float:
    """Bytes a second, read and written, of this device's memory: the fastest of many passes over a large array.

    A pass flips signs, which no compiler leaves out, and writes to memory that it owns: a copy to new
    memory is ten times slower on a CPU, for the system clears every page of it.
    """
    flip = jax.jit(lambda repeats, x: lax.fori_loop(0, repeats, lambda _, y: -y, x), donate_argnums=1)
    array = jnp.zeros(effort.copied_bytes // 4, jnp.float32)

    def seconds(repeats: int) -> float:
        nonlocal array
        start = time.perf_counter()
        array = flip(jnp.int32(repeats), array).block_until_ready()
        return (time.perf_counter() - start) / repeats

    repeats = _repeats(seconds, effort.round_s)
    return 2 * array.nbytes / min(seconds(repeats) for _ in range(effort.rounds))
