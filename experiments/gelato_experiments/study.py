"""What a study is: settings in, a flat table out; claims and a figure are made from the table alone.

A study is one folder in `studies/` with a `STUDY`, and one line in `studies/registry.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gelato_jax.errors import GelatoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""One line of a study's table: name -> number, text, bool or None. Units are suffixes of the names."""

Progress = Callable[[str, int, int], None]
"""Told what is done, how many of it, and of how many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of claims.json.

    Attributes:
        claim: the sentence.
        required: what it asks for, in words with the figure.
        measured: what was found, in words with the figure.
        holds: whether it does; None where it cannot be judged here, which `measured` explains.
        about: `ours`, or `paper` where it is what the paper reported.
    """

    claim: str
    required: str
    measured: str
    holds: bool | None
    about: str = "ours"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A study.

    Attributes:
        name: as on the command line.
        question: one sentence, what it answers.
        quick: settings of the quick preset, a frozen dataclass.
        full: settings of the full preset, of the same class.
        run: (settings, progress) -> rows; reads no file but recordings, writes none.
        claims: (settings, rows) -> claims.
        draw: (settings, rows) -> figure, every axis with its unit.
        given: a recording in place of the study's own; see `on`.
    """

    name: str
    question: str
    quick: Any
    full: Any
    run: Callable[[Any, Progress], list[Row]]
    claims: Callable[[Any, list[Row]], list[Claim]]
    draw: Callable[[Any, list[Row]], "Figure"]
    given: str | None = None

    @property
    def takes_recording(self) -> bool:
        """Whether it is about one recording, which may be another."""
        return hasattr(self.quick, "recording")

    def on(self, recording: str) -> "Study":
        """The same study of another recording.

        Args:
            recording: a file that `gelato record` wrote.

        Raises:
            GelatoError: the study is not about one recording.
        """
        if not self.takes_recording:
            raise GelatoError(f"{self.name} is not a study of one recording: leave --recording out, or take another")
        quick, full = (dataclasses.replace(preset, recording=recording) for preset in (self.quick, self.full))
        return dataclasses.replace(self, quick=quick, full=full, given=recording)
