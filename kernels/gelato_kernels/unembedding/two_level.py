"""Two-level form of `unembed_entropy`: one sweep over the head's rows, then a draw that computes one block again."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.blocks import block_place, draw
from gelato_kernels.sweeps.records import Statistics
from gelato_kernels.token_stats.two_level import fields

Sweep = Callable[[Array, Array, Array | None, Array | None], Statistics]
"""Statistics of the logits of rows [R, D] with weight [V, D] and scales [V], given the inverse of temperatures [R]."""


def unembed_entropy(
    hidden: Array,
    weight: Array,
    scale: Array | None,
    uniforms: Array | None,
    temperature: Array | None,
    *,
    sweep: Sweep,
) -> tuple[Array | None, ...]:
    """Fields of TokenStats for hidden [..., D] and weight [V, D]; see the API."""
    shape = hidden.shape[:-1]
    warm = None if temperature is None else jnp.where(temperature > 0, temperature, 1.0).reshape(-1)
    rows = hidden.reshape(-1, hidden.shape[-1]).astype(jnp.bfloat16 if scale is not None else weight.dtype)
    seen = sweep(rows, weight, scale, None if warm is None else 1.0 / warm)
    stats = tuple(field.reshape(shape) for field in fields(seen, weight.shape[0]))
    if uniforms is None:
        return (*stats, None)
    read = partial(_read_block, rows, weight, scale)
    token = draw(read, seen.maximum, seen.block_sums, uniforms.reshape(-1, 2), warm).reshape(shape)
    return (*stats, token if temperature is None else jnp.where(temperature > 0, token, stats[-1]))


def dot(rows: Array, weight: Array) -> Array:
    """Products with weight.T in the rows' dtype, summed in float32."""
    precision = lax.Precision.HIGHEST if rows.dtype == jnp.float32 else None
    dimensions = (((1,), (1,)), ((), ()))
    weight = weight.astype(rows.dtype)
    return lax.dot_general(rows, weight, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _read_block(rows: Array, weight: Array, scale: Array | None, block: Array) -> tuple[Array, Array]:
    """`blocks.read_block` of logits that are computed again, for a block [R] of each row."""
    first, kept = block_place(block, weight.shape[0])

    def logits(row: Array, start: Array) -> Array:
        values = dot(row[None], lax.dynamic_slice_in_dim(weight, start, kept.shape[-1]))[0]
        return values if scale is None else values * lax.dynamic_slice_in_dim(scale, start, kept.shape[-1])

    return jnp.where(kept, jax.vmap(logits)(rows, first), -jnp.inf), first
