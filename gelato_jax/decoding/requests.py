"""What a user calls: `generate` for texts, `stream` to watch the rounds, `autoregressive` for the baseline.

`generate` is prompt, `while_loop` of rounds, text, with no host between. `stream` runs the same
round, compiled alone, and hands one packed integer array a round to the host.
"""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax import Array

from gelato_jax.decoding.baseline import Text
from gelato_jax.decoding.job import DecodeSettings, encode_prompts, make_job
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.prefill import fresh_memory
from gelato_jax.decoding.programs import advance, decode, decode_autoregressive, start, unpack
from gelato_jax.decoding.records import DecodeState, Job, Memory, RoundInfo, Shapes, Totals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """What a decode produced, on the host.

    Attributes:
        tokens: generated ids of each prompt, the end-of-sequence token included.
        totals: sums over rounds, leaves `[B]` NumPy.
        memory: what the rows keep for their next request; pass it to the next `generate`.
        final_queue_j: `[B]` energy queue after the last round.
    """

    tokens: list[list[int]]
    totals: Totals
    memory: Memory
    final_queue_j: np.ndarray


def generate(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    memory: Memory | None = None,
    **choices,
) -> Generation:
    """Decode a batch of prompts speculatively, as one compiled program.

    Args:
        pair: draft, target, tokenizer.
        prompts: texts (chat turns unless `raw`) or token ids, of any lengths.
        settings: lengths and law.
        raw: continue texts as they are, without the chat template.
        memory: `Generation.memory` of the rows' last request, so that queue and estimates go on.
        **choices: `controller`, `system`, `payload`, `length_exit`, `depth_exit`, `draft_sampling`; see `make_job`.

    Returns:
        Ids, totals and queue of each prompt.

    Raises:
        ValueError: a prompt or a setting that cannot run.
    """
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    memory = fresh_memory(job, len(prompts)) if memory is None else memory
    text, totals, kept = decode(job, **batch, memory=memory, shapes=settings.shapes)
    return _generation(job, text, batch["prompt_length"], totals, kept)


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
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    text = jax.device_get(decode_autoregressive(job, **batch, shapes=settings.shapes))
    return _rows(text.tokens, batch["prompt_length"], text.length)


def _generation(job: Job, text: Text, prompt_length: Any, totals: Totals, memory: Memory) -> Generation:
    text, totals, queue = jax.device_get((text, totals, jax.vmap(job.policy.controller.queue)(memory.controller)))
    tokens = _rows(text.tokens, prompt_length, text.length)
    return Generation(tokens=tokens, totals=totals, memory=memory, final_queue_j=queue)


def _rows(tokens, begin, end) -> list[list[int]]:
    """The generated part of each row."""
    bounds = zip(tokens, np.asarray(begin), np.asarray(end), strict=True)
    return [row[first:last].tolist() for row, first, last in bounds]


@dataclasses.dataclass
class Stream:
    """A decode that is watched round by round.

    Iterate for each round's `RoundInfo` (NumPy, rows first); `first` holds the tokens that the
    prefill already gave; `generation()` sums up at any time.

    The round's program is made in a thread of its own while the prompts are read; `wait()` returns
    when it is ready.
    """

    state: DecodeState
    job: Job
    shapes: Shapes
    first: np.ndarray
    prompt_length: Array
    preparation: threading.Thread

    def wait(self) -> None:
        """Wait for the round's program, so that what follows is decoding alone; iterating does so by itself."""
        self.preparation.join()

    def __iter__(self) -> Iterator[RoundInfo]:
        """Run rounds until every row is done."""
        self.wait()
        finished = bool(np.asarray(self.state.done).all())
        while not finished:
            self.state, packed = advance(self.state, self.job, shapes=self.shapes)
            info = unpack(np.asarray(packed))
            finished = bool(info.done.all())
            yield info

    def generation(self) -> Generation:
        """What has been decoded so far."""
        text = Text(self.state.tokens, self.state.length)
        return _generation(self.job, text, self.prompt_length, self.state.account.totals, self.state.account.memory)


def stream(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    memory: Memory | None = None,
    preparation: threading.Thread | None = None,
    **choices,
) -> Stream:
    """As `generate`, but round by round: returns when the prompts are read.

    Args:
        pair: as `generate`, as are all others but the last.
        prompts: see there.
        settings: see there.
        raw: see there.
        memory: see there.
        preparation: what `prepare` returned for the same arguments; the programs are made here if not given.
        **choices: see there.
    """
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    memory = fresh_memory(job, len(prompts)) if memory is None else memory
    preparation = _prepare(job, batch, memory, settings.shapes) if preparation is None else preparation
    state = start(job, **batch, memory=memory, shapes=settings.shapes)
    return Stream(
        state=state,
        job=job,
        shapes=settings.shapes,
        first=np.take_along_axis(np.asarray(state.tokens), np.asarray(state.length)[:, None] - 1, axis=1),
        prompt_length=batch["prompt_length"],
        preparation=preparation,
    )


def prepare(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    **choices,
) -> threading.Thread:
    """Make the programs of `stream`, which may begin before the weights are there.

    Args:
        pair: whose weights may be `jax.ShapeDtypeStruct`; `load_pair(..., outline=True)` gives one.
        prompts: as `stream`, as are all others; only their longest length counts, in powers of two.
        settings: see there.
        raw: see there.
        **choices: see there.

    Returns:
        What `stream` takes as `preparation`: the prompts' program is ready, a thread still makes the round's.
    """
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    return _prepare(job, batch, fresh_memory(job, len(prompts)), settings.shapes)


def _prepare(job: Job, batch: dict[str, Array], memory: Memory, shapes: Shapes) -> threading.Thread:
    """Compile for arguments that may be known by shapes alone.

    JAX keeps tracings, lowerings and their executables: the calls that follow find them all.
    """
    reading = start.lower(job, **batch, memory=memory, shapes=shapes)
    thread = threading.Thread(target=_prepare_round, args=(reading.out_info, job, shapes), daemon=True)
    thread.start()
    reading.compile()
    return thread


def _prepare_round(state: Any, job: Job, shapes: Shapes) -> None:
    """Compile the round for a state known by shapes alone."""
    with suppress(Exception):  # the call itself meets the same fault, where it can be raised
        advance.lower(state, job, shapes=shapes).compile()
