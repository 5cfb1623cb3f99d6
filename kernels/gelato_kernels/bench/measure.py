"""The benchmark: every implementation of every workload compiled, checked against the reference, and timed."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jax.extend.backend import backends

from gelato_kernels.bench import timing
from gelato_kernels.bench.agreement import difference
from gelato_kernels.bench.timing import Effort, Sample
from gelato_kernels.bench.workloads import Workload
from gelato_kernels.dispatch import Backend

TEXTBOOK = "textbook"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One implementation of one workload.

    Attributes:
        op: public name.
        case: the shape.
        implementation: its name, or `textbook` for the steps it is compared with.
        status: `refused`, `failed` and `wrong` are not timed.
        note: what is wrong, one line.
        compile_ms: tracing, lowering and compiling of one call.
        median_us: of a call from Python that is waited for, microseconds.
        minimum_us: of the same.
        loop_us: median of a call inside a compiled loop.
        bytes: that the op must at least read and write.
        gb_per_s: those bytes in `loop_us`, 10^9 a second.
        copy_share: of the copy bandwidth; above 1 where the inputs stay in a cache between calls.
        ratio: median of the textbook's steps over `median_us`: how many times as fast.
    """

    op: str
    case: str
    implementation: str
    status: Literal["ok", "refused", "failed", "wrong"] = "ok"
    note: str = ""
    compile_ms: float | None = None
    median_us: float | None = None
    minimum_us: float | None = None
    loop_us: float | None = None
    bytes: int | None = None
    gb_per_s: float | None = None
    copy_share: float | None = None
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """A run.

    Attributes:
        device: kind of the device.
        platform: name that programs are lowered for.
        jax: version.
        python: version.
        copy_gb_per_s: bandwidth of copying a large array, 10^9 bytes read or written a second.
        rows: by workload.
    """

    device: str
    platform: str
    jax: str
    python: str
    copy_gb_per_s: float
    rows: tuple[Row, ...]

    @property
    def sound(self) -> bool:
        """No implementation failed, or gave something else than the reference."""
        return all(row.status in ("ok", "refused") for row in self.rows)


def platform_name() -> str:
    """Name that programs for the first device are lowered for: `cuda`, where the device itself says `gpu`."""
    client = jax.devices()[0].client
    return next(name for name, backend in backends().items() if backend is client)


def _on_this_device(implementations: Sequence[Backend], platform: str) -> list[str]:
    """Names of those that serve a platform; interpreters are for tests."""
    interpreter = lambda backend: backend.named_only and not backend.platforms  # noqa: E731
    return [b.name for b in implementations if not interpreter(b) and (not b.platforms or platform in b.platforms)]


def run(workloads: Sequence[Workload], effort: Effort, say: Callable[[str], None] = lambda line: None) -> Measurements:
    """Measure workloads on this process's first device.

    Args:
        workloads: in order.
        effort: how long each is timed.
        say: given a line ahead of each row.

    Returns:
        Measurements.
    """
    device, name = jax.devices()[0], platform_name()
    say("passes over a large array")
    bandwidth = timing.copy_bandwidth(effort)
    rows: list[Row] = []
    for index, workload in enumerate(workloads):
        where = f"[{index + 1}/{len(workloads)}] {workload.op}, {workload.case}"
        names = _on_this_device(workload.backends, name)
        rows += _measure(workload, names, effort, bandwidth, lambda what, where=where: say(f"{where}: {what}"))
    return Measurements(
        device=device.device_kind,
        platform=name,
        jax=jax.__version__,
        python=platform.python_version(),
        copy_gb_per_s=bandwidth / 1e9,
        rows=tuple(rows),
    )


class Candidate(NamedTuple):
    """An implementation that is to be timed, or why it is not."""

    row: Row  # without times
    call: Callable[[], Any] | None = None
    loop_s: float = 0.0


def _measure(
    workload: Workload, names: Sequence[str], effort: Effort, bandwidth: float, say: Callable[[str], None]
) -> list[Row]:
    inputs, expected = prepare(workload)
    candidates = []
    if workload.textbook is not None:
        row = Row(op=workload.op, case=workload.case, implementation=TEXTBOOK)
        candidates.append(Candidate(row, workload.textbook(**inputs)))
    for name in names:
        say(name)
        candidates.append(candidate(workload, name, inputs, expected, effort))
    say("all of them in turn")
    samples = timing.alternate({c.row.implementation: c.call for c in candidates if c.call is not None}, effort)
    least = workload.bytes(inputs, expected)
    return [
        _timed(candidate, samples, least, bandwidth) if candidate.call else candidate.row for candidate in candidates
    ]


def prepare(workload: Workload) -> tuple[dict[str, Any], Any]:
    """A workload's inputs on the device, and the reference's result."""
    inputs = jax.device_put(workload.inputs())
    return inputs, jax.block_until_ready(jax.jit(partial(workload.call, implementation="reference"))(**inputs))


def candidate(workload: Workload, name: str, inputs: dict[str, Any], expected: Any, effort: Effort) -> Candidate:
    """Compile an implementation, hold its result against the expected one, and time it in a loop."""
    row = Row(op=workload.op, case=workload.case, implementation=name)
    call = partial(workload.call, implementation=name)
    start = time.perf_counter()
    try:
        program = jax.jit(call).lower(**inputs).compile()
        row = replace(row, compile_ms=(time.perf_counter() - start) * 1e3)
        fault = difference(program(**inputs), expected, tolerance=workload.tolerance, strays=workload.strays)
        if fault is not None:
            return Candidate(replace(row, status="wrong", note=fault))
        return Candidate(row, lambda: program(**inputs), timing.in_a_loop(call, inputs, effort))
    except Exception as error:  # of any kind, from any compiler: the other rows are worth having
        refused = isinstance(error, ValueError) and "cannot serve these inputs" in str(error)
        return Candidate(replace(row, status="refused" if refused else "failed", note=_first_line(error)))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:200]


def _timed(candidate: Candidate, samples: dict[str, Sample], least: int, bandwidth: float) -> Row:
    """The candidate's row with its times, and what follows from them."""
    sample = samples[candidate.row.implementation]
    against = samples.get(TEXTBOOK) or samples.get("reference")
    row = replace(
        candidate.row,
        median_us=sample.median * 1e6,
        minimum_us=sample.minimum * 1e6,
        bytes=least,
        ratio=against.median / sample.median if against else None,
    )
    if not candidate.loop_s:
        return row
    speed = least / candidate.loop_s
    return replace(row, loop_us=candidate.loop_s * 1e6, gb_per_s=speed / 1e9, copy_share=speed / bandwidth)
