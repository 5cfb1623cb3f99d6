"""How a long run goes, on standard error: a bar on a terminal, a line now and then elsewhere."""

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType

_LABELS = {"corpus": "corpus", "train": "training", "calibrate": "calibrating"}
_LINE_EVERY_S = 30.0  # assumed: a log of a night stays readable


class Pace:
    """Shows phases with their rate and the time left; a context manager.

    What an earlier process did counts as done, not as speed.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self._bars = None
        self._tasks: dict[str, int] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._said = float("-inf")

    def __enter__(self) -> "Pace":
        """Start the display."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            text, pace = TextColumn("{task.description}"), TextColumn("{task.fields[pace]}")
            columns = (text, BarColumn(), TaskProgressColumn(), pace)
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display; its last state stays."""
        if self._bars is not None:
            self._bars.stop()

    def show(self, phase: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """Hear that `done` of `total` tokens of a phase are through."""
        now = time.monotonic()
        first = phase not in self._begun
        began, before = self._begun.setdefault(phase, (now, done))
        parts = _pace(now - began, done - before, total - done)
        parts += [f"loss {values['loss']:.3f}"] if "loss" in values else []
        pace = ", ".join(parts)
        label = _LABELS.get(phase, phase)
        if self._bars is not None:
            if first:
                self._tasks[phase] = self._bars.add_task(label, total=total, pace="")
            self._bars.update(self._tasks[phase], completed=min(done, total), total=total, pace=pace)  # type: ignore[arg-type]
        elif first or done >= total or now - self._said > _LINE_EVERY_S:
            self._said = now
            line = ", ".join([f"gelato: {label} {min(done, total)} of {total} tokens", *parts])
            print(line, file=sys.stderr, flush=True)


def _pace(seconds: float, done: int, left: int) -> list[str]:
    """Rate and time left, once there is something to go by."""
    if seconds <= 0 or done <= 0:
        return []
    rate = done / seconds
    hours, minutes = divmod(math.ceil(max(0, left) / rate / 60), 60)
    return [f"{rate:.0f} tokens/s", f"{hours}:{minutes:02d} h left"]
