"""The compiled programs: a whole decode, or prefill and round apart, and the baseline.

A program depends on `Shapes`, on the structure of the job (which rules, which models) and on the
size of the buffers; every number in the job is data.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gelato_jax.decoding.baseline import Text, decode_alone
from gelato_jax.decoding.prefill import prefill
from gelato_jax.decoding.records import DecodeState, Job, Memory, RoundInfo, Shapes, Totals
from gelato_jax.decoding.round import decode_round


@partial(jax.jit, static_argnames="shapes")
def decode(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seed: Array,
    memory: Memory | None = None,
    *,
    shapes: Shapes,
) -> tuple[Text, Totals, Memory]:
    """A whole decode in one program. Arguments as `prefill`.

    Returns:
        Tokens and lengths, totals, and what the rows keep.
    """
    state = prefill(job, tokens, prompt_length, limit, seed, shapes, memory)
    state = lax.while_loop(lambda s: ~s.done.all(), lambda s: decode_round(s, job, shapes)[0], state)
    return Text(state.tokens, state.length), state.account.totals, state.account.memory


@partial(jax.jit, static_argnames="shapes")
def start(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seed: Array,
    memory: Memory | None = None,
    *,
    shapes: Shapes,
) -> DecodeState:
    """`prefill`, compiled."""
    return prefill(job, tokens, prompt_length, limit, seed, shapes, memory)


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
    values: dict[str, Any] = {"tokens": packed[:, :emitted]}
    floats = ("mean_exit", "acceptance_rate", "queue_j", "time_s", "energy_j")
    for name, column in zip(names[1:], packed[:, emitted:].T, strict=True):
        values[name] = column.view(np.float32) if name in floats else column
    return RoundInfo(**{**values, "done": values["done"].astype(bool)})
