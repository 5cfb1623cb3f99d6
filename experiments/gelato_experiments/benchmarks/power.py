"""What a draft's step, a window of the target and waiting draw here, by this machine's own meter."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import jax

from gelato_jax.decoding import Pair
from gelato_jax.decoding.local import run_windows
from gelato_jax.decoding.records import Lookup
from gelato_jax.errors import GelatoError
from gelato_jax.meter import Meter
from gelato_jax.models import Model
from gelato_jax.system import DevicePreset

_STEPS = 64
"""Of one call: long beside the call itself, short beside a measurement."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What some steady work draws."""

    what: str
    seconds: float  # of the measurement
    joules: float
    steps: int  # done meanwhile; of waiting, none

    @property
    def watts(self) -> float:
        """Drawn meanwhile."""
        return self.joules / self.seconds

    @property
    def step_s(self) -> float | None:
        """Seconds of a step."""
        return self.seconds / self.steps if self.steps else None

    @property
    def step_j(self) -> float | None:
        """Joules of a step, those of standing still meanwhile included."""
        return self.joules / self.steps if self.steps else None


def run(
    pair: Pair, meter: Meter, *, window: int, seconds: float, progress: Callable[[str], None] = lambda stage: None
) -> tuple[Load, Load, Load]:
    """Measure waiting, draft steps and windows, one after the other.

    Args:
        pair: whose models run.
        meter: counts the joules.
        window: tokens of the target's windows.
        seconds: of each measurement; many ticks of the meter.
        progress: told what is measured next.

    Returns:
        Waiting, drafting, verifying.

    Raises:
        GelatoError: the draft has no step that could be measured, or the meter stands still.
    """
    if isinstance(pair.draft, Lookup):
        raise GelatoError("a draft that looks its tokens up has no step to measure; give one with weights")
    loads = (
        ("waiting", None),
        ("draft step", _steps(pair.draft.model, 1)),
        (f"window of {window}", _steps(pair.target, window)),
    )
    for _, work in loads:
        if work is not None:
            work()  # compiles
    measured = []
    for what, work in loads:
        progress(what)
        measured.append(_measure(what, work, meter, seconds))
    return measured[0], measured[1], measured[2]


def preset(waiting: Load, drafting: Load, meter: Meter, model: str) -> DevicePreset:
    """The device that was measured."""
    return DevicePreset(
        tokens_per_s=drafting.steps / drafting.seconds,
        draft_w=drafting.watts,
        idle_w=waiting.watts,
        source=f"gelato bench power, {model}: {meter.covers}, {drafting.seconds:.0f} s each",
    )


def _steps(model: Model, window: int) -> Callable[[], object]:
    return lambda: jax.block_until_ready(run_windows(model, _STEPS, window, window=window))


def _measure(what: str, work: Callable[[], object] | None, meter: Meter, seconds: float) -> Load:
    calls = 0
    begin_j, begin = meter.joules(), time.monotonic()
    while (took := time.monotonic() - begin) < seconds:
        (partial(time.sleep, seconds - took) if work is None else work)()
        calls += work is not None
    joules, took = meter.joules() - begin_j, time.monotonic() - begin
    if joules <= 0.0:
        raise GelatoError(f"the meter ({meter.covers}) counted nothing in {took:.1f} s of {what}")
    return Load(what=what, seconds=took, joules=joules, steps=calls * _STEPS)
