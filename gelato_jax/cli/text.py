"""From token ids to text that can be shown: whole characters, and nothing of a stop string."""

from collections.abc import Sequence
from typing import Any

from gelato_checkpoints import IncrementalDecoder


class TextStream:
    """The text of one answer as its ids arrive.

    What might be the beginning of a stop string is held back until it is known not to be.

    Args:
        tokenizer: of the ids; only its `decode` is used.
        stops: the text ends before the first of these.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        """Start an empty text."""
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._held = ""
        self.text = ""
        self.stopped = False

    def feed(self, ids: Sequence[int]) -> str:
        """Add ids; the characters that may be shown now."""
        return self._take(self._decoder.feed(ids), final=False)

    def finish(self) -> str:
        """End the text; the characters that were waiting."""
        return self._take(self._decoder.finish(), final=True)

    def _take(self, piece: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        self._held += piece
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.stopped, safe = True, min(found)
        else:
            safe = len(self._held) - (0 if final else self._beginning())
        shown, self._held = self._held[:safe], self._held[safe:]
        self.text += shown
        return shown

    def _beginning(self) -> int:
        """How many characters at the end of what is held may begin a stop string."""
        return max(
            (size for stop in self._stops for size in range(1, len(stop)) if self._held.endswith(stop[:size])),
            default=0,
        )
