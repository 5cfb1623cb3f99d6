"""What a user calls: `generate` for texts, `stream` to watch the rounds, `autoregressive` for the baseline.

`generate` is prompt, `while_loop` of rounds, text, with no host between. `stream` runs the same round, one or some in
a call, and hands one packed integer array a round to the host.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.decoding.baseline import Text
from gelato_jax.decoding.job import DecodeSettings, encode_prompts, make_job
from gelato_jax.decoding.memory import refuse_what_does_not_fit
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.prefill import fresh_sessions
from gelato_jax.decoding.programs import (
    MOST_ROUNDS,
    advance,
    decode,
    decode_autoregressive,
    in_background,
    once,
    outline,
    start,
    text_of,
    unpack,
)
from gelato_jax.decoding.records import DecodeState, Job, Session, Shapes
from gelato_jax.decoding.text import Reason, TextStream, finish_reason, stop_strings
from gelato_jax.decoding.totals import Totals
from gelato_jax.errors import GelatoError
from gelato_jax.types import Observation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """What a decode produced, on the host.

    Attributes:
        tokens: generated ids of each prompt, the end-of-sequence token included; the one that completes a stop string
            is the last.
        texts: what they say, cut before a stop string.
        ends: why each ends: `eos`, `length` or `stop`; of a stream that was left early, `length`.
        totals: sums over rounds, leaves `[B]` NumPy; tokens that a round gave after a stop string are among them.
        session: what the rows keep for their next request; pass it to the next `generate`.
        final_queue_j: `[B]` energy queue after the last round.
    """

    tokens: list[list[int]]
    texts: list[str]
    ends: list[Reason]
    totals: Totals
    session: Session
    final_queue_j: np.ndarray


def generate(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    session: Session | None = None,
    stop: str | Sequence[str] = (),
    **choices,
) -> Generation:
    """Decode a batch of prompts speculatively, as one compiled program.

    With stop strings the rounds are run one by one, for what a text says is known on the host alone.

    Args:
        pair: draft, target, tokenizer.
        prompts: texts (chat turns unless `raw`) or token ids, of any lengths.
        settings: lengths and distribution.
        raw: continue texts as they are, without the chat template.
        session: `Generation.session` of the rows' last request, so that queue and estimates go on.
        stop: strings that end a text, which is cut before them; see `text.TextStream`.
        **choices: `controller`, `system`, `payload`, `length_exit`, `depth_exit`, `draft_sampling`; see `make_job`.

    Returns:
        Ids, totals and queue of each prompt.

    Raises:
        ValueError: a prompt or a setting that cannot run.
    """
    if stops := stop_strings(stop):
        watched = stream(pair, prompts, settings=settings, raw=raw, session=session, **choices)
        return _until_stops(watched, stops)
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = _encode(pair, prompts, settings, raw)
    session = open_session(session, job, len(prompts))
    text, totals, kept = decode(job, **batch, session=session, shapes=settings.shapes)
    return _generation(pair, job, text, batch["prompt_length"], totals, kept)


def _until_stops(watched: "Stream", stops: tuple[str, ...]) -> Generation:
    """Run a stream's rounds; a row ends where its text has come to a stop string."""
    texts = [TextStream(watched.pair.tokenizer, stops) for _ in watched.first]
    watched.one_by_one = True
    for text, tokens in zip(texts, watched.first, strict=True):
        text.feed(tokens.tolist())
    watched.end(np.array([text.stopped for text in texts]))
    for seen in watched:
        for text, ids, count in zip(texts, seen.ids, seen.tokens, strict=True):
            text.feed(ids[:count].tolist())
        watched.end(np.array([text.stopped for text in texts]))
    for text in texts:
        text.finish()
    return dataclasses.replace(
        watched.generation(),
        tokens=[text.ids for text in texts],
        texts=[text.text for text in texts],
        ends=[finish_reason(text, watched.pair.eos_ids) for text in texts],
    )


def autoregressive(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    **choices,
) -> list[list[int]]:
    """Decode by the target alone: the baseline. Arguments as `generate`; only `payload` matters among the choices.

    Returns:
        Generated ids of each prompt.
    """
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = _encode(pair, prompts, settings, raw)
    text = jax.device_get(decode_autoregressive(job, **batch, shapes=settings.shapes))
    refuse_faults(text)
    return _rows(text.tokens, batch["prompt_length"], text.length)


def _encode(
    pair: Pair, prompts: Sequence[str] | Sequence[Sequence[int]], settings: DecodeSettings, raw: bool
) -> dict[str, Array]:
    """Prompts in one buffer, for which there is memory."""
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    refuse_what_does_not_fit(pair, *batch["tokens"].shape)
    return batch


def open_session(session: Session | None, job: Job, rows: int) -> Session:
    """What so many rows begin with: the session given, or a fresh one.

    Raises:
        GelatoError: it is of other rules or of another number of rows.
    """
    if session is None:
        return fresh_sessions(job.setup, rows=rows)
    fresh = jax.eval_shape(fresh_sessions, job.setup, rows=rows)
    if jax.tree.structure(fresh) != jax.tree.structure(session):
        raise GelatoError("the session is of another controller or length exit: start with a fresh one, session=None")
    shapes = [(np.shape(old), new.shape) for old, new in zip(*map(jax.tree.leaves, (session, fresh)), strict=True)]
    if wrong := [old for old, new in shapes if old != new]:
        found = wrong[0][0] if wrong[0] else 0
        raise GelatoError(f"the session is of {found} rows and there are {rows} prompts: start with a fresh one")
    return session


def refuse_faults(text: Text) -> None:
    """Raise where a row ended because logits were no numbers."""
    if rows := np.flatnonzero(text.fault).tolist():
        raise GelatoError(
            f"prompt {rows[0]}: a model's logits are not numbers behind {int(text.length[rows[0]])} tokens; its "
            "weights are damaged, or overflow their dtype: convert the checkpoint again, or load it in float32"
        )


def _generation(pair: Pair, job: Job, text: Text, prompt_length: Any, totals: Totals, session: Session) -> Generation:
    text, totals, queue = jax.device_get((text, totals, jax.vmap(job.policy.controller.queue)(session.controller)))
    refuse_faults(text)
    tokens = _rows(text.tokens, prompt_length, text.length)
    return Generation(
        tokens=tokens,
        texts=[pair.tokenizer.decode(row) for row in tokens],
        ends=["eos" if row and row[-1] in pair.eos_ids else "length" for row in tokens],
        totals=totals,
        session=session,
        final_queue_j=queue,
    )


def _rows(tokens, begin, end) -> list[list[int]]:
    """The generated part of each row."""
    bounds = zip(tokens, np.asarray(begin), np.asarray(end), strict=True)
    return [row[first:last].tolist() for row, first, last in bounds]


SMOOTH_S = 0.1
"""Rounds of a stream that are run in one call take so long: nobody sees text come in such steps."""


@dataclasses.dataclass
class Stream:
    """A decode that is watched round by round.

    Iterate for each round's `Observation` (NumPy, rows first); `first` holds the tokens that the
    prefill already gave; `generation()` sums up at any time.

    The round's program is made in a thread of its own while the prompts are read; `wait()` returns
    when it is ready.

    Attributes:
        one_by_one: no round is run before the one ahead of it was looked at, for whoever may `end` rows. Else several
            are run in one call, as many as take `SMOOTH_S`.
    """

    pair: Pair
    state: DecodeState
    job: Job
    shapes: Shapes
    first: np.ndarray
    done: np.ndarray
    prompt_length: Array
    preparation: Future[None]
    one_by_one: bool = dataclasses.field(default=False, kw_only=True)
    _at_once: int = dataclasses.field(default=1, init=False)

    def wait(self) -> None:
        """Wait for the round's program, so that what follows is decoding alone; iterating does so by itself."""
        self.preparation.result()

    def __iter__(self) -> Iterator[Observation]:
        """Run rounds until every row is done."""
        self.wait()
        exits, length = self.job.draft.work.shape[0], self.shapes.max_draft_length
        while not self.done.all():
            for packed in self._rounds():
                seen = unpack(packed, exits=exits, max_draft_length=length)
                if np.any(seen.fault):
                    refuse_faults(jax.device_get(text_of(self.state)))
                self.done = np.asarray(seen.done)
                yield seen

    def _rounds(self) -> Sequence[np.ndarray]:
        """Run a round or some: the state moves on; what was observed, as `pack` gives it."""
        began, most = time.perf_counter(), 1 if self.one_by_one else self._at_once
        self.state, packed, count = advance(self.state, self.job, np.int32(most), shapes=self.shapes)
        rounds = list(np.asarray(packed)[: int(count)])
        self._at_once = int(np.clip(SMOOTH_S * len(rounds) / (time.perf_counter() - began), 1, MOST_ROUNDS))
        return rounds

    def end(self, rows: np.ndarray) -> None:
        """End some rows, `[B]` bool, where they are: they take no part in the rounds that follow."""
        if (rows & ~self.done).any():
            self.done = self.done | rows
            device = dataclasses.replace(self.state.device, done=jnp.asarray(self.done))
            self.state = dataclasses.replace(self.state, device=device)

    def close(self) -> None:
        """No further round will be asked for; iterating to the end closes by itself."""

    def generation(self) -> Generation:
        """What has been decoded so far."""
        row = self.state.row
        # A copy: the state's arrays are given away with the next round.
        session = jax.tree.map(jnp.copy, row.session)
        return _generation(self.pair, self.job, text_of(self.state), self.prompt_length, row.totals, session)


def stream(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    session: Session | None = None,
    **choices,
) -> Stream:
    """As `generate`, but round by round: returns when the prompts are read.

    Args:
        pair: as `generate`, as are all others.
        prompts: see there.
        settings: see there.
        raw: see there.
        session: see there.
        **choices: see there.
    """
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = _encode(pair, prompts, settings, raw)
    session = open_session(session, job, len(prompts))
    preparation = _prepare(job, batch, session, settings.shapes)
    state = start(job, **batch, session=session, shapes=settings.shapes)
    refuse_faults(jax.device_get(text_of(state)))
    return Stream(
        pair=pair,
        state=state,
        job=job,
        shapes=settings.shapes,
        first=np.take_along_axis(np.asarray(state.device.tokens), np.asarray(state.device.length)[:, None] - 1, axis=1),
        done=np.asarray(state.device.done),
        prompt_length=batch["prompt_length"],
        preparation=preparation,
    )


def _prepare(job: Job, batch: dict[str, Array], session: Session, shapes: Shapes) -> Future[None]:
    """Compile both programs, the round's in a thread."""

    def begin() -> Future[None]:
        reading = start.lower(job, **batch, session=session, shapes=shapes)
        future = in_background(lambda: advance.lower(reading.out_info, job, np.int32(1), shapes=shapes).compile())
        reading.compile()
        return future

    return once(("stream", shapes, outline((job, batch, session))), begin)
