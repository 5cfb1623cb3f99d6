"""From token ids to text, as the ids arrive: whole characters, and an end before a stop string.

The rule of stops, whatever number of ids arrives at once: reading the text character by character, the first moment
at which some stop string is complete ends it. It is cut where that string begins; of several that are complete at the
same character, the one that begins earliest counts.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from gelato_jax.decoding.pair import Tokenizer
from gelato_jax.errors import GelatoError

Reason = Literal["stop", "eos", "length"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def stop_strings(stops: str | Sequence[str]) -> tuple[str, ...]:
    """Stop strings as a tuple; a single one may stand without a list.

    Raises:
        GelatoError: one is empty.
    """
    found = (stops,) if isinstance(stops, str) else tuple(stops)
    if "" in found:
        raise GelatoError("a stop string is empty, which would end every text before it begins; leave it out")
    return found


class TextStream:
    """The text of one answer as its ids arrive.

    What may be the beginning of a stop string is held back until it is known not to be.

    Args:
        tokenizer: of the ids; only its `decode` is used.
        stops: strings that end the text, which is cut before them; see `stop_strings`.

    Attributes:
        text: all that may be shown by now.
        ids: what the text was read from. The one that completed a stop string is the last of them, though the text
            is cut before that string; what is fed after it is not taken.
        stopped: whether a stop string is complete.

    Raises:
        GelatoError: a stop string is empty.
    """

    def __init__(self, tokenizer: Tokenizer, stops: str | Sequence[str] = ()) -> None:
        """Start an empty text."""
        self._stops = stop_strings(stops)
        self._characters = _Characters(tokenizer)
        self._held = ""
        self.text = ""
        self.ids: list[int] = []
        self.stopped = False

    def feed(self, ids: Sequence[int]) -> str:
        """Add ids; the characters that may be shown now."""
        before = len(self.text)
        for token in ids:
            if self.stopped:
                break
            self.ids.append(token)
            self._read(self._characters.add(token))
        return self.text[before:]

    def finish(self) -> str:
        """End the text; the characters that were waiting."""
        before = len(self.text)
        self._read(self._characters.end())
        if not self.stopped:
            self._show(len(self._held))
        return self.text[before:]

    def _read(self, piece: str) -> None:
        """Take characters one by one, up to the end of a stop string."""
        for character in piece:
            if self.stopped:
                return
            self._held += character
            if complete := [stop for stop in self._stops if self._held.endswith(stop)]:
                self.stopped = True
                self._show(len(self._held) - max(map(len, complete)))
                self._held = ""
            else:
                self._show(len(self._held) - self._beginning())

    def _show(self, size: int) -> None:
        """Let go of the first characters that are held."""
        self.text += self._held[:size]
        self._held = self._held[size:]

    def _beginning(self) -> int:
        """How many characters at the end of what is held may begin a stop string."""
        return max(
            (size for stop in self._stops for size in range(1, len(stop)) if self._held.endswith(stop[:size])),
            default=0,
        )


def finish_reason(text: TextStream, eos_ids: Collection[int]) -> Reason:
    """Why an answer that is at its end ends there.

    A stop string goes before all else: what lies after it, an end-of-sequence id or the limit of the length, was
    drafted in the same round and is no part of the answer.
    """
    if text.stopped:
        return "stop"
    return "eos" if text.ids and text.ids[-1] in eos_ids else "length"


class _Characters:
    """Whole characters from ids: one whose bytes are not all there waits for the next ids.

    The pieces joined are `tokenizer.decode` of all ids. `tokenizers` has a `DecodeStream` that gives the same pieces;
    but it takes no other tokenizer, has no end, and raises where a byte-fallback vocabulary spells bytes that are no
    UTF-8, which a model may do.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # ids of the last piece: some decoders look at the token before
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        """The characters that an id completes."""
        self._waiting.append(token)
        piece = self._piece()
        if not piece or piece.endswith(_REPLACEMENT):
            return ""
        self._context, self._waiting = self._waiting, []
        return piece

    def end(self) -> str:
        """The text of the ids that wait; bytes that complete no character become U+FFFD."""
        piece = self._piece()
        self._context, self._waiting = [], []
        return piece

    def _piece(self) -> str:
        """Text of the waiting ids after their context."""
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._waiting)[len(before) :]
