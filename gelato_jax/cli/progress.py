"""Progress of the steps before the first token, on standard error: a bar on a terminal, a line a step elsewhere."""

import sys
from types import TracebackType

_LABELS = {
    "download": "downloading",
    "check": "checking",
    "convert": "converting",
    "write": "writing",
    "load": "loading",
    "compile": "compiling, or loading compiled programs",
}
_NOTES = {"untrained": "no trained draft ships for this model: its first layers draft, and agree with it seldom"}
_BYTES = ("download", "check")


class Progress:
    """Shows stages; a context manager, so that a bar never outlives its work.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """Show nothing yet."""
        self._quiet = quiet
        self._bars = None
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> "Progress":
        """Start the display."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
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

    def stage(self, stage: str, done: int, total: int) -> None:
        """Hear that `done` of `total` units of a stage are through; a total of 0 is unknown. Any thread may call."""
        if self._quiet:
            return
        if stage in _NOTES:
            self._note(_NOTES[stage])
            return
        known = stage in self._tasks
        label = _LABELS.get(stage, stage)
        if self._bars is None:
            if not known:
                size = f" ({total / 1e6:.0f} MB)" if stage in _BYTES and total else ""
                print(f"gelato: {label}{size}", file=sys.stderr, flush=True)
                self._tasks[stage] = 0
            return
        if not known:
            self._tasks[stage] = self._bars.add_task(label)
        if stage in _BYTES and total:
            label = f"{label} {done / 1e6:.0f} of {total / 1e6:.0f} MB"
        self._bars.update(self._tasks[stage], description=label, completed=done, total=total or None)  # type: ignore[arg-type]

    def _note(self, text: str) -> None:
        """Say something that stays on the screen."""
        if self._bars is None:
            print(f"gelato: {text}", file=sys.stderr, flush=True)
        else:
            self._bars.console.print(f"gelato: {text}", highlight=False)
