"""The target writes: user turns and answers, many rows at once, its likeliest tokens recorded as it goes.

A row is a small machine: given tokens (the frame of a conversation, an opening) are fed as they
stand, the others are drawn; when the user turn ends, the answer's header becomes the next given
tokens. A finished row waits for the host to give it the next beginning.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.models import Cache, Model, allocate, write
from gelato_jax.types import record, static

_BLOCK = 256  # of the two-level search for the likeliest tokens
_ROWS_AT_ONCE = 4  # of logits


@record
class Frame:
    """What surrounds a user turn, and where turns end."""

    prefix: Array  # [P] int32 ids ahead of a user turn
    header: Array  # [Q] int32 ids between user turn and answer; empty: what is given and drawn first is the beginning
    ends: Array  # [E] int32 ids that end a turn
    num_recorded: int = static()  # likeliest tokens kept for every position (k)


class Writing(NamedTuple):
    """Rows under way."""

    tokens: Array  # [B, S] int32
    length: Array  # [B] tokens written or given and fed
    given: Array  # [B] tokens below this index are given
    answer_start: Array  # [B] index of the answer's first token; S while the user turn is being written
    user_end: Array  # [B] index at which a user turn is cut
    answer_limit: Array  # [B] most tokens of the answer
    temperature: Array  # [B] of the answer; a user turn is written at 1
    done: Array  # [B] bool
    top_ids: Array  # [B, S, k] int32 likeliest ids ahead of each token
    top_log_probs: Array  # [B, S, k] float32
    key: Array
    cache: Cache


def begin(model: Model, frame: Frame, rows: int, slots: int, seed: int) -> Writing:
    """Rows that wait for their beginnings, the frame's prefix in their cache.

    Args:
        model: the target.
        frame: of its conversations.
        rows: B.
        slots: S, the longest text.
        seed: of every draw.
    """

    def numbers(*shape: int) -> Array:  # an array of its own every time: a donated one cannot stand twice
        return jnp.zeros((rows, *shape), jnp.int32)

    return Writing(
        tokens=numbers(slots),
        length=numbers() + 1,
        given=numbers(),
        answer_start=numbers(),
        user_end=numbers(),
        answer_limit=numbers(),
        temperature=jnp.zeros((rows,)),
        done=jnp.ones((rows,), bool),
        top_ids=numbers(slots, frame.num_recorded),
        top_log_probs=jnp.zeros((rows, slots, frame.num_recorded)),
        key=jax.random.key(seed),
        cache=_read_prefix(model, frame, rows, slots),
    )


@partial(jax.jit, static_argnames=("rows", "slots"))
def _read_prefix(model: Model, frame: Frame, rows: int, slots: int) -> Cache:
    """A cache whose first slots hold the prefix less its last token, which every row feeds itself."""
    # float32 whatever the weights are: XLA on a CPU widens and narrows a whole bfloat16 cache for every write.
    cache, empty = allocate(model.config, 1, slots), jnp.zeros((1,), jnp.int32)
    if frame.prefix.shape[0] > 1:
        x, fresh = model.bind().forward(frame.prefix[None, :-1], cache, empty)
        cache = write(cache, fresh, empty, after=x)
    return jax.tree.map(lambda array: jnp.repeat(array, rows, axis=0), cache)


class Beginning(NamedTuple):
    """What a row starts with."""

    tokens: Array  # [B, S] int32 prefix and opening
    given: Array  # [B] int32 how many
    user_end: Array  # [B] int32 index at which a user turn is cut
    answer_limit: Array  # [B] int32 most tokens of the answer
    temperature: Array  # [B] of the answer


@partial(jax.jit, donate_argnums=0)
def restart(state: Writing, beginning: Beginning, frame: Frame) -> Writing:
    """Give every row that is done a new beginning. Its cache holds the prefix already, as every row's does."""
    fresh = {
        **beginning._asdict(),
        "length": jnp.full_like(state.length, frame.prefix.shape[0]),
        "answer_start": jnp.full_like(beginning.given, state.tokens.shape[1]),
        "done": jnp.zeros_like(state.done),
    }
    rows = lambda leaf: state.done.reshape((-1,) + (1,) * (leaf.ndim - 1))  # noqa: E731
    return state._replace(**{name: jnp.where(rows(new), new, getattr(state, name)) for name, new in fresh.items()})


@partial(jax.jit, static_argnames="steps", donate_argnums=0)
def advance(state: Writing, model: Model, frame: Frame, *, steps: int) -> Writing:
    """Write `steps` tokens in every row that is not done."""
    return lax.fori_loop(0, steps, lambda _, loop: _step(loop, model, frame), state)


def _step(state: Writing, model: Model, frame: Frame) -> Writing:
    decoder, rows = model.bind(), jnp.arange(state.length.shape[0])
    position = state.length  # of the token that this step decides
    last = jnp.take_along_axis(state.tokens, position[:, None] - 1, axis=1)
    x, fresh = decoder.forward(last, state.cache, position - 1)
    key, draw_key = jax.random.split(state.key)
    in_answer = position >= state.answer_start
    drawn, ids, log_probs = _look(
        decoder.unembed(x[:, 0]),
        gelato_kernels.uniforms(draw_key, (position.shape[0], 2)),
        jnp.where(in_answer, state.temperature, 1.0),
        frame.num_recorded,
    )

    given = position < state.given
    token = jnp.where(given, jnp.take_along_axis(state.tokens, position[:, None], axis=1)[:, 0], drawn)
    ends = ~given & jnp.isin(token, frame.ends)
    user_ends = ~in_answer & (position >= state.given) & (ends | (position + 1 >= state.user_end))
    cut = jnp.minimum(state.answer_start + state.answer_limit, state.tokens.shape[1])
    answer_ends = in_answer & (ends | (position + 1 >= cut))
    if not frame.header.shape[0]:  # a text that ends in its beginning has no answer
        answer_ends = answer_ends | (user_ends & ends)

    active = ~state.done
    slot = jnp.where(active, position, state.tokens.shape[1])  # beyond the end: dropped
    tokens = state.tokens.at[rows, slot].set(token, mode="drop")
    tokens = _give_header(tokens, frame.header, position, active & user_ends)
    after_header = position + max(1, frame.header.shape[0])  # without a header the token that was drawn stays
    return state._replace(
        tokens=tokens,
        length=position + active,
        given=jnp.where(user_ends, after_header, state.given),
        answer_start=jnp.where(user_ends, after_header, state.answer_start),
        done=state.done | answer_ends,
        top_ids=state.top_ids.at[rows, slot].set(ids, mode="drop"),
        top_log_probs=state.top_log_probs.at[rows, slot].set(log_probs, mode="drop"),
        key=key,
        cache=write(state.cache, fresh, position - 1, after=x),
    )


def _look(logits: Array, uniforms: Array, temperature: Array, count: int) -> tuple[Array, Array, Array]:
    """Draw from `logits [B, V]`: tokens `[B]`, and the likeliest ids and their log-probabilities `[B, count]`.

    A few rows at a time: the intermediates of all rows together would not stay in a CPU's cache.
    """

    def look(row: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        logits, uniforms, temperature = row
        stats = gelato_kernels.entropy(logits, uniforms=uniforms, temperature=temperature)
        values, ids = likeliest(logits[None], count)
        token: Any = stats.token  # there, since uniforms are given
        return token, ids[0], values[0] - stats.logsumexp

    return lax.map(look, (logits, uniforms, temperature), batch_size=_ROWS_AT_ONCE)


def _give_header(tokens: Array, header: Array, position: Array, rows: Array) -> Array:
    """Put the answer's header, which begins with the end of the user turn, at `position` of the rows named."""
    slots = jnp.where(rows[:, None], position[:, None] + jnp.arange(header.shape[0]), tokens.shape[1])
    return tokens.at[jnp.arange(tokens.shape[0])[:, None], slots].set(header, mode="drop")


def likeliest(logits: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest of `logits [R, V]`, descending: values and int32 ids, `[R, count]` each.

    Two-level: the largest lie in the `count` blocks with the largest maxima.
    """
    rows, vocab = logits.shape
    short = -vocab % _BLOCK
    blocks = jnp.pad(logits, ((0, 0), (0, short)), constant_values=-jnp.inf).reshape(rows, -1, _BLOCK)
    if blocks.shape[1] <= count:
        return lax.top_k(logits, count)
    _, chosen = lax.top_k(blocks.max(axis=-1), count)
    candidates = jnp.take_along_axis(blocks, chosen[..., None], axis=1).reshape(rows, -1)
    values, positions = lax.top_k(candidates, count)
    ids = jnp.take_along_axis(chosen, positions // _BLOCK, axis=1) * _BLOCK + positions % _BLOCK
    return values, ids
