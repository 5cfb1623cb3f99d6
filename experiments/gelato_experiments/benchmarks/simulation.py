"""What simulated rounds cost: rounds a second with every feature on, compile time, and memory of a million devices.

Every feature: `ratio` under a cap, priced exits in length and depth, two exits, the `candidates` payload, a fading
link, requests without end. Seconds are the least over repeats; the processor's seconds beside them tell what else
ran on the machine.
"""

import dataclasses
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from gelato_experiments.oracles import EntropyModel
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import control, payloads, simulation, system
from gelato_jax.decoding import Policy
from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Recording

DRAFT_LENGTHS = (8, 12)
DEVICES, ROUNDS, REPEATS = 16384, 100, 5
MANY, FEW_ROUNDS = 1_000_000, 5
SHALLOW_WORK = 0.5
"""Of the earlier of two exits; assumed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One timing."""

    draft_length: int
    jax_devices: int
    rounds_per_s: float
    cpu_ns: float  # processor time of a round, all cores
    first_s: float  # the first call: tracing, compiling, a round


@dataclasses.dataclass(frozen=True, kw_only=True)
class Many:
    """A run of many devices."""

    devices: int
    rounds: int
    seconds: float
    peak_bytes: int  # by which the process grew, at most
    result_bytes: int  # of what was handed back

    @property
    def bytes_per_device(self) -> float:
        """Of the growth."""
        return self.peak_bytes / self.devices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """All figures."""

    rows: tuple[Timing, ...]
    many: Many


def use_every_core() -> None:
    """Let JAX see each core of a CPU as a device. Without effect where JAX has started, or was told otherwise."""
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    except RuntimeError:
        return


def run(say: Callable[[str], None] = lambda stage: None) -> Result:
    """Measure here, with one of JAX's devices and with all of them.

    Args:
        say: told what is being timed.
    """
    everything = jax.devices()
    groups = [everything[:1]] + ([everything] if len(everything) > 1 else [])
    rows = []
    for length in DRAFT_LENGTHS:
        for group in groups:
            say(f"drafts of {length} tokens on {len(group)} of JAX's devices")
            rows.append(_timed(length, group))
    say(f"{MANY:,} devices")
    return Result(rows=tuple(rows), many=_many(everything))


def lines(result: Result) -> list[str]:
    """The figures as a table."""
    table = ["draft length   JAX devices   million rounds/s   CPU ns a round   first call"]
    for row in result.rows:
        table.append(
            f"{row.draft_length:12d} {row.jax_devices:13d} {row.rounds_per_s / 1e6:18.2f} "
            f"{row.cpu_ns:16.0f} {row.first_s:10.1f} s"
        )
    many = result.many
    table.append(
        f"{many.devices:,} devices, {many.rounds} rounds of each: {many.seconds:.1f} s; memory grew by "
        f"{many.peak_bytes / 2**20:.0f} MiB at most, {many.bytes_per_device:.0f} bytes a device, "
        f"{many.result_bytes / many.devices:.0f} of them the result"
    )
    return table


def figures(result: Result) -> dict[str, Any]:
    """The figures as plain numbers."""
    return {**dataclasses.asdict(result), "bytes_per_device": result.many.bytes_per_device}


def world(max_draft_length: int) -> tuple[Recording, Setup]:
    """A drawn recording of two exits, and every feature."""
    # Three classes of entropy that persist; acceptance from likely to seldom; assumed.
    model = EntropyModel(
        initial=np.array([0.5, 0.3, 0.2]),
        transition=np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.3, 0.3, 0.4]]),
        acceptance=np.array([0.9, 0.6, 0.3]),
    )
    drawn = [synthetic_recording(model, positions=96, max_draft_length=max_draft_length, seed=seed) for seed in (0, 1)]
    rollouts = drawn[0].rollouts
    both = {
        field.name: np.concatenate([getattr(one.rollouts, field.name) for one in drawn], axis=2)
        for field in dataclasses.fields(rollouts)
        if getattr(rollouts, field.name).ndim > 2
    }
    recording = dataclasses.replace(
        drawn[0],
        rollouts=dataclasses.replace(rollouts, **both),
        work=np.asarray([SHALLOW_WORK, 1.0], np.float32),
        calibration=jax.tree.map(np.asarray, control.default_calibration(2)),
    )
    policy = Policy(
        controller=control.ratio(power_budget_w=2.0, penalty_weight=0.1),
        length_exit=control.length_exits.priced(),
        depth_exit=control.depth_exits.priced(),
        draft_sampling=control.draft_sampling.fixed(),
        payload=payloads.candidates(32),
    )
    return recording, simulation.make_setup(recording, policy, system.preset())


def _timed(max_draft_length: int, group: Sequence[Any]) -> Timing:
    recording, terms = world(max_draft_length)

    def simulate(rounds: int, seed: int) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        simulation.simulate(recording, [terms], devices=DEVICES, rounds=rounds, seed=seed, jax_devices=group)
        return time.perf_counter() - start, time.process_time() - cpu

    first_s, _ = simulate(1, 0)
    took = [simulate(ROUNDS, seed) for seed in range(REPEATS)]
    count = DEVICES * ROUNDS
    return Timing(
        draft_length=max_draft_length,
        jax_devices=len(group),
        rounds_per_s=count / min(wall for wall, _ in took),
        cpu_ns=min(cpu for _, cpu in took) / count * 1e9,
        first_s=first_s,
    )


def _many(group: Sequence[Any]) -> Many:
    recording, terms = world(DRAFT_LENGTHS[0])
    before, start = _peak_bytes(), time.perf_counter()
    result = simulation.simulate(recording, [terms], devices=MANY, rounds=FEW_ROUNDS, jax_devices=group)
    return Many(
        devices=MANY,
        rounds=FEW_ROUNDS,
        seconds=time.perf_counter() - start,
        peak_bytes=_peak_bytes() - before,
        result_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(result)),
    )


def _peak_bytes() -> int:
    """The most memory that this process has held; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
