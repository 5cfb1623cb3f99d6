"""What the user sees while text is decoded: bare text, or text above a panel of figures on a terminal."""

import sys
from dataclasses import dataclass
from typing import Protocol

_PANEL_ROWS = 4
_ECHO = 3  # columns left free on the right: a terminal's echo of Ctrl-C must not wrap and move the panel
_FRAMES_PER_S = 10  # assumed: steady to the eye, and free beside a round


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the panel shows; a rate without anything to divide by is None."""

    tokens_per_s: float | None  # wall clock
    energy_per_token_j: float | None
    acceptance_rate: float | None  # of all drafts so far
    drafted: int  # in the last round
    budget: int  # allowed in the last round
    depth: float | None  # mean layers of the last round's drafted tokens
    layers: int  # of the draft
    queue_j: float


class Screen(Protocol):
    """Shows an answer; a context manager."""

    def __enter__(self) -> "Screen": ...

    def __exit__(self, *exception: object) -> None: ...

    def text(self, piece: str) -> None:
        """Show more of the answer."""

    def figures(self, figures: Figures) -> None:
        """Show how it goes."""


class Silence:
    """Shows nothing: standard output belongs to the JSON report."""

    def __enter__(self) -> "Silence":
        """Nothing to set up."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to undo."""

    def text(self, piece: str) -> None:
        """Not shown."""

    def figures(self, figures: Figures) -> None:
        """Not shown."""


class Plain(Silence):
    """Text to standard output as it comes, and a line end after it."""

    _last = "\n"

    def __exit__(self, *exception: object) -> None:
        """End the last line."""
        if self._last != "\n":
            self.text("\n")

    def text(self, piece: str) -> None:
        """Write and flush."""
        if piece:
            self._last = piece[-1]
            sys.stdout.write(piece)
            sys.stdout.flush()


class Panel:
    """Text above a small panel, on a terminal.

    Whole lines are printed for good; the line that still grows lives just above the panel.

    Args:
        title: what stands on the panel's frame.
        joules: where they come from, in a word.
    """

    def __init__(self, title: str, joules: str = "modelled") -> None:
        """Draw nothing yet."""
        from rich.console import Console
        from rich.live import Live

        self._title, self._joules = title, joules
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=_FRAMES_PER_S, transient=True)
        self._line = ""
        self._figures: Figures | None = None

    def __enter__(self) -> "Panel":
        """Draw the panel."""
        self._live.start()
        self._draw()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the text, remove the panel."""
        if self._line:
            self.text("\n")
        self._live.stop()

    def text(self, piece: str) -> None:
        """Add to the line that grows; print the lines that are full."""
        *whole, self._line = (self._line + piece).split("\n")
        self._draw()
        for line in whole:
            self._print(line)

    def figures(self, figures: Figures) -> None:
        """Update the panel."""
        self._figures = figures
        self._draw()

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)

    def _draw(self) -> None:
        from rich.console import Group
        from rich.panel import Panel as Frame
        from rich.text import Text

        # What does not fit above the panel is out of sight until its line ends.
        rows = Text(self._line).wrap(self._console, self._console.width)
        shown = rows[-max(1, self._console.height - _PANEL_ROWS - 1) :]
        width = self._console.width - _ECHO
        frame = Frame(self._cells(), title=self._title, title_align="left", style="dim", width=width)
        self._live.update(Group(*shown, frame))

    def _cells(self):
        from rich.table import Table

        if self._figures is None:
            return "loading the program of a round"
        f = self._figures
        cells = {
            "tokens/s here": _number(f.tokens_per_s, ".1f"),
            f"J/token {self._joules}": _number(f.energy_per_token_j, ".3g"),
            "accepted": _number(f.acceptance_rate, ".0%"),
            "drafted": f"{f.drafted} of {f.budget}",
            "layers": f"{_number(f.depth, '.1f')} of {f.layers}" if f.layers else "looked up",
            "queue": f"{f.queue_j:.2f} J",
        }
        table = Table.grid(expand=True)
        for _ in cells:
            table.add_column(justify="center", no_wrap=True)
        table.add_row(*cells.values(), style="bold")
        table.add_row(*cells)
        return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
