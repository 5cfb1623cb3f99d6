"""What an edge computes: texts read piece by piece, and rounds of several texts verified in one pass.

No protocol and no threads in sight: `sessions` decides what is next.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.decoding.prefill import Reading, begin_reading, edge_state, open_edge, read_on
from gelato_jax.decoding.programs import in_background, once, outline
from gelato_jax.decoding.records import EdgeState, Sampling, Shapes
from gelato_jax.decoding.verify import verify
from gelato_jax.models import Cache, Model, join_rows, split_rows
from gelato_jax.payloads import Downlink, DraftIds, Payload, Uplink

PIECE = 128
"""Tokens of a text that are read at a time: others have their turns between."""
MOST_TOGETHER = 8
"""Texts in one pass. Every power of two up to it is a program of its own, made when it is first of use."""


class Terms(NamedTuple):
    """What a request asks for."""

    sampling: Sampling  # leaves [1]
    payload: Payload
    ids: DraftIds
    shapes: Shapes
    slots: int
    row_keys: Array  # [1, 2]

    @property
    def program(self) -> Hashable:
        """Texts that have it equal run one program."""
        return outline((self.payload, self.ids)), self.shapes, self.slots

    @property
    def alike(self) -> Hashable:
        """Texts that have it equal share the numbers of their scheme as well: they can be verified together."""
        numbers = jax.tree.leaves((self.payload, self.ids))
        return self.program, tuple(np.asarray(number).tobytes() for number in numbers)


@dataclasses.dataclass(eq=False)
class Row:
    """A text at the target, in arrays of its own."""

    terms: Terms
    reading: Reading | None = None  # as far as it has been read
    read: int = 0  # tokens of it
    state: EdgeState | None = None  # behind all of it

    def __post_init__(self) -> None:
        self.alike = self.terms.alike


class Computer:
    """Runs a target for one caller at a time.

    Args:
        target: the model.
        eos_ids: ids behind which a stream of tokens need not go on.
    """

    def __init__(self, target: Model, eos_ids: Sequence[int]) -> None:
        """Without any program."""
        self.target = target
        self._eos_ids = jnp.asarray(eos_ids, jnp.int32)
        self._outline = outline((target, self._eos_ids))

    def read(self, row: Row, text: np.ndarray, round: int) -> tuple[int, bool] | None:
        """Read the next piece of a text, `text` int32; with the last one, `row.state` is there.

        Args:
            row: the same in every call for this text.
            text: a prompt; or, with `round` above 0, committed tokens, as they were before that round.
            round: see above.

        Returns:
            Behind the last piece, a prompt's first token and whether its logits were no numbers; None before. Of
            committed tokens these mean nothing.
        """
        terms = row.terms
        length = len(text) - (round > 0)  # a prompt is cached whole; of a text, the last token is not
        tokens = np.zeros((1, terms.slots), np.int32)
        tokens[0, : len(text)] = text
        row.read = min(row.read + PIECE, length)
        before = _begin(self.target, slots=terms.slots) if row.reading is None else row.reading
        row.reading = None  # given away
        reading = _read_on(before, self.target, tokens, np.asarray([length], np.int32), row.read, shapes=terms.shapes)
        jax.block_until_ready(reading)
        if row.read < length:
            row.reading = reading
            return None
        if round:
            last, ends, rounds = (jnp.asarray([number], jnp.int32) for number in (text[-1], len(text), round))
            row.state = edge_state(self.target, terms.payload, last, ends, reading.cache, terms.row_keys, rounds)
            said = 0, False
        else:
            speak = partial(_speak, reading.cache, self.target, terms.sampling, terms.payload, reading.last)
            row.state, first, fault = speak(np.asarray([length], np.int32), terms.row_keys)
            said = int(first[0]), bool(fault[0])
        self.program(row, 1)  # while the device drafts its first round
        return said

    def room(self, row: Row, count: int) -> int:
        """How many of `count` texts like this one go into a pass: as many as have a program, and one is begun."""
        rows = 1
        while 2 * rows <= min(count, MOST_TOGETHER) and self.program(row, 2 * rows).done():
            rows *= 2
        return rows

    def answer(self, rows: Sequence[Row], uplinks: Sequence[Uplink]) -> Downlink:
        """Verify a round of each text, all alike: the answers, leaves `[rows, ...]` NumPy. The states move on.

        Of a stream, up to G + 1 tokens; or one, where another text's drafts would wait for them.
        """
        self.program(rows[0], len(rows)).result()
        states = tuple(row.state for row in rows)
        for row in rows:
            row.state = None  # given away
        samplings = tuple(row.terms.sampling for row in rows)
        states, downlink = _verify(states, tuple(uplinks), samplings, **self._shared(rows[0].terms))
        downlink = jax.device_get(downlink)
        for row, state in zip(rows, states, strict=True):
            row.state = state
        return downlink

    def program(self, row: Row, rows: int) -> Future[None]:
        """Whether the program of a pass over so many texts like this one is made; it is begun where it is not."""
        terms = row.terms

        def begin() -> Future[None]:
            blank = terms.payload.decode_uplink(b"\0", terms.shapes.max_draft_length, terms.ids)
            parts = jax.eval_shape(lambda *known: known, row.state, blank, terms.sampling)
            lower = partial(_verify.lower, *((part,) * rows for part in parts), **self._shared(terms))
            return in_background(lambda: lower().compile())

        return once(("edge", rows, self._outline, terms.program), begin)

    def _shared(self, terms: Terms) -> dict:
        """What the rows of a pass have in common."""
        return {
            "target": self.target,
            "payload": terms.payload,
            "ids": terms.ids,
            "eos_ids": self._eos_ids,
            "shapes": terms.shapes,
        }


@partial(jax.jit, static_argnames="slots")
def _begin(target: Model, *, slots: int) -> Reading:
    """`begin_reading`, compiled."""
    return begin_reading(target, 1, slots)


@partial(jax.jit, static_argnames="shapes", donate_argnames="reading")
def _read_on(reading: Reading, target: Model, tokens: Array, length: Array, until: Array, *, shapes: Shapes) -> Reading:
    """`read_on`, compiled."""
    return read_on(target, tokens, length, reading, until, shapes)


@partial(jax.jit, donate_argnames="cache")
def _speak(
    cache: Cache, target: Model, sampling: Sampling, payload: Payload, last: Array, length: Array, row_keys: Array
) -> tuple[EdgeState, Array, Array]:
    """`open_edge`, compiled."""
    return open_edge(target, sampling, payload, cache, last, length, row_keys)


@partial(jax.jit, static_argnames="shapes", donate_argnames="states")
def _verify(
    states: tuple[EdgeState, ...],
    uplinks: tuple[Uplink, ...],
    samplings: tuple[Sampling, ...],
    *,
    target: Model,
    payload: Payload,
    ids: DraftIds,
    eos_ids: Array,
    shapes: Shapes,
) -> tuple[tuple[EdgeState, ...], Downlink]:
    """`verify` of texts of one row each, leaves `[1, ...]`: every cache stays where it is."""
    small, uplink, sampling = (
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        for parts in ([dataclasses.replace(state, cache=()) for state in states], uplinks, samplings)
    )
    together = dataclasses.replace(small, cache=join_rows([state.cache for state in states]))
    drafts_wait = (uplink.length > 0).any()
    together, downlink = verify(
        together,
        uplink,
        target=target,
        sampling=sampling,
        payload=payload,
        ids=ids,
        eos_ids=eos_ids,
        shapes=shapes,
        most_passes=jnp.where(drafts_wait, 1, shapes.max_draft_length + 1),
    )
    small = dataclasses.replace(together, cache=())

    def apart(row: int, cache: Cache) -> EdgeState:
        return dataclasses.replace(jax.tree.map(lambda leaf: leaf[row : row + 1], small), cache=cache)

    return tuple(apart(row, cache) for row, cache in enumerate(split_rows(together.cache, len(states)))), downlink
