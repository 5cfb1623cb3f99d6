"""Generation: a whole decode in one compiled program, or the same rounds one by one.

generate  prompt -> `while_loop` of rounds -> text, in one program: no host between
stream    the same round, compiled alone; one packed integer array a round goes to the host
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gelato_jax.decoding.baseline import Text, decode_alone
from gelato_jax.decoding.job import DecodeSettings, encode_prompts, make_job
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.prefill import prefill
from gelato_jax.decoding.records import DecodeState, Job, RoundInfo, Shapes, Totals
from gelato_jax.decoding.round import decode_round


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """What a decode produced, on the host.

    Attributes:
        tokens: generated ids of each prompt, the end-of-sequence token included.
        totals: sums over rounds, leaves `[B]` NumPy.
        final_queue_j: `[B]` energy queue after the last round.
    """

    tokens: list[list[int]]
    totals: Totals
    final_queue_j: np.ndarray


@partial(jax.jit, static_argnames="shapes")
def decode(
    job: Job, tokens: Array, prompt_length: Array, limit: Array, seed: Array, *, shapes: Shapes
) -> tuple[Array, Array, Totals, Array]:
    """A whole decode in one program. Arguments as `prefill`.

    Returns:
        Tokens `[B, S]`, lengths `[B]`, totals and final queue, leaves `[B]`.
    """
    state = prefill(job, tokens, prompt_length, limit, seed, shapes)
    state = lax.while_loop(lambda s: ~s.done.all(), lambda s: decode_round(s, job, shapes)[0], state)
    return state.tokens, state.length, state.totals, jax.vmap(job.policy.controller.queue)(state.controller)


@partial(jax.jit, static_argnames="shapes")
def start(job: Job, tokens: Array, prompt_length: Array, limit: Array, seed: Array, *, shapes: Shapes) -> DecodeState:
    """`prefill`, compiled."""
    return prefill(job, tokens, prompt_length, limit, seed, shapes)


@partial(jax.jit, static_argnames="shapes", donate_argnames="state")
def advance(state: DecodeState, job: Job, *, shapes: Shapes) -> tuple[DecodeState, Array]:
    """One round, compiled, its report packed into one integer array `[B, ...]` (see `unpack`)."""
    state, info = decode_round(state, job, shapes)
    return state, pack(info)


@partial(jax.jit, static_argnames="shapes")
def decode_autoregressive(
    job: Job, tokens: Array, prompt_length: Array, limit: Array, seed: Array, *, shapes: Shapes
) -> Text:
    """`decode_alone`, compiled."""
    return decode_alone(job, tokens, prompt_length, limit, seed, shapes)


def pack(info: RoundInfo) -> Array:
    """A round's report as one int32 array `[B, columns]`, floats by their bits: one transfer a round."""

    def columns(leaf: Array) -> Array:
        leaf = leaf.reshape(leaf.shape[0], -1)
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return lax.bitcast_convert_type(leaf, jnp.int32) if is_float else leaf.astype(jnp.int32)

    return jnp.concatenate([columns(leaf) for leaf in jax.tree.leaves(info)], axis=1)


def unpack(packed: np.ndarray) -> RoundInfo:
    """Undo `pack`, on the host."""
    names = [field.name for field in dataclasses.fields(RoundInfo)]
    emitted = packed.shape[1] - (len(names) - 1)
    values: dict[str, np.ndarray] = {"tokens": packed[:, :emitted]}
    floats = ("mean_exit", "acceptance_rate", "queue_j", "time_s", "energy_j")
    for name, column in zip(names[1:], packed[:, emitted:].T, strict=True):
        values[name] = column.view(np.float32) if name in floats else column
    return RoundInfo(**{**values, "done": values["done"].astype(bool)})


def generate(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    **choices,
) -> Generation:
    """Decode a batch of prompts speculatively, as one compiled program.

    Args:
        pair: draft, target, tokenizer.
        prompts: texts (chat turns unless `raw`) or token ids, of any lengths.
        settings: lengths and law.
        raw: continue texts as they are, without the chat template.
        **choices: `controller`, `system`, `payload`, `length_exit`, `depth_exit`, `draft_sampling`; see `make_job`.

    Returns:
        Ids, totals and queue of each prompt.

    Raises:
        ValueError: a prompt or a setting that cannot run.
    """
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    tokens, length, totals, queue = jax.device_get(decode(job, **batch, shapes=settings.shapes))
    return Generation(tokens=_rows(tokens, batch["prompt_length"], length), totals=totals, final_queue_j=queue)


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


def _rows(tokens, begin, end) -> list[list[int]]:
    """The generated part of each row."""
    bounds = zip(tokens, np.asarray(begin), np.asarray(end), strict=True)
    return [row[first:last].tolist() for row, first, last in bounds]


@dataclasses.dataclass
class Stream:
    """A decode that is watched round by round.

    Iterate for each round's `RoundInfo` (NumPy, rows first); `first` holds the tokens that the
    prefill already gave; `generation()` sums up at any time.
    """

    state: DecodeState
    job: Job
    shapes: Shapes
    first: np.ndarray
    prompt_length: np.ndarray

    def __iter__(self) -> Iterator[RoundInfo]:
        """Run rounds until every row is done."""
        finished = bool(self.state.done.all())
        while not finished:
            self.state, packed = advance(self.state, self.job, shapes=self.shapes)
            info = unpack(np.asarray(packed))
            finished = bool(info.done.all())
            yield info

    def generation(self) -> Generation:
        """What has been decoded so far."""
        keep = (self.state.tokens, self.state.length, self.state.totals)
        tokens, length, totals = jax.device_get(keep)
        queue = np.asarray(jax.vmap(self.job.policy.controller.queue)(self.state.controller))
        return Generation(tokens=_rows(tokens, self.prompt_length, length), totals=totals, final_queue_j=queue)


def stream(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    **choices,
) -> Stream:
    """As `generate`, but round by round: returns when the prompts are read."""
    settings = settings or DecodeSettings()
    job = make_job(pair, settings=settings, **choices)
    batch = encode_prompts(pair, prompts, settings, raw=raw)
    state = start(job, **batch, shapes=settings.shapes)
    prompt_length = np.asarray(batch["prompt_length"])
    first = np.asarray(jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1))
    return Stream(state=state, job=job, shapes=settings.shapes, first=first, prompt_length=prompt_length)
