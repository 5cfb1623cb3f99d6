"""How a command goes, on standard error: bars on a terminal, a line now and then elsewhere."""

import math
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_LABELS = {
    "download": "downloading",
    "check": "checking",
    "convert": "converting",
    "write": "writing",
    "load": "loading",
    "time": "timing this machine, once",
    "compile": "compiling, or loading compiled programs",
    "decode": "decoding",
    "train": "training",
    "calibrate": "calibrating",
    "pack": "packing the weights, once",
}
_MEGABYTES, _TOKENS = (1e6, "MB"), (1.0, "tokens")  # how many of what is counted make one, and its name
_UNITS = {
    "download": _MEGABYTES,
    "check": _MEGABYTES,
    "corpus": _TOKENS,
    "train": _TOKENS,
    "calibrate": _TOKENS,
    "recording": _TOKENS,
}
_NOTES = {
    "untrained": "no trained draft ships for this model: its first layers draft, and agree with it seldom",
    "shorter": "the draft's context is shorter than the model's: prompts and answers are held to it",
    "uncompiled": "no compiled kernels (no working C++ compiler, or GELATO_NATIVE=0): weights in floats, much slower; "
    "install g++, or pip install ziglang",
}
_LINE_EVERY_S = 30.0  # assumed: a log of a night stays readable


class Progress:
    """Shows stages; a context manager, so that a bar never outlives its work.

    What an earlier process did counts as done, not as speed.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Show nothing yet."""
        self._quiet = quiet
        self._bars: Any = None
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        """Start the display."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            text = TextColumn("{task.description}", markup=False)
            columns = (SpinnerColumn(), text, BarColumn(), TimeElapsedColumn())
            self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the display."""
        self.stop()

    def stop(self) -> None:
        """Remove the display; may be called twice."""
        if self._bars is not None:
            self._bars.stop()

    def stage(self, stage: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        """Hear that `done` of `total` units of a stage are through; any thread may call.

        Args:
            stage: its name, or that of something to be told once.
            done: units, those of an earlier process included.
            total: units; 0 is unknown.
            values: of a training step.
        """
        if self._quiet:
            return
        with self._lock:
            if stage in _NOTES:
                self._say(_NOTES[stage])
            else:
                self._show(stage, done, total, values or {})

    def _show(self, name: str, done: int, total: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        first = name not in self._stages
        stage = self._stages.setdefault(name, _Stage(began=now, before=done, said=now))
        text = ", ".join([_amount(name, done, total), *stage.pace(name, now, done, total), *_loss(values)])
        if self._bars is not None:
            if first:
                stage.bar = self._bars.add_task(name)
            self._bars.update(stage.bar, description=text, completed=min(done, total), total=total or None)
        elif first or stage.due(name, now, done, total):
            stage.said, stage.ended = now, done >= total
            self._say(text)

    def _say(self, text: str) -> None:
        """Say something that stays on the screen."""
        if self._bars is None:
            print(f"gelato: {text}", file=sys.stderr, flush=True)
        else:
            self._bars.console.print(f"gelato: {text}", highlight=False, markup=False)


@dataclass
class _Stage:
    """What is remembered of a stage."""

    began: float
    before: int  # units done when it began
    said: float  # when the last line was written
    ended: bool = False  # whether that line told of its end
    bar: Any = None

    def due(self, name: str, now: float, done: int, total: int) -> bool:
        """Whether a line is to be written: now and then, and at the end of what is worth counting."""
        return now - self.said > _LINE_EVERY_S or (name in _UNITS and done >= total > 0 and not self.ended)

    def pace(self, name: str, now: float, done: int, total: int) -> list[str]:
        """Rate and time left, once there is something to go by."""
        seconds, since = now - self.began, done - self.before
        if name not in _UNITS or seconds <= 0 or since <= 0:
            return []
        size, unit = _UNITS[name]
        hours, minutes = divmod(math.ceil(max(0, total - done) * seconds / since / 60), 60)
        return [f"{since / seconds / size:.0f} {unit}/s", f"{hours}:{minutes:02d} h left"]


def _amount(name: str, done: int, total: int) -> str:
    """A stage and how far it is, where that is counted in something."""
    label, (size, unit) = _LABELS.get(name, name), _UNITS.get(name, (1.0, ""))
    if not total or not (done or unit):
        return label
    return f"{label} {min(done, total) / size:.0f} of {total / size:.0f} {unit}".rstrip()


def _loss(values: Mapping[str, float]) -> list[str]:
    return [f"loss {values['loss']:.3f}"] if "loss" in values else []
