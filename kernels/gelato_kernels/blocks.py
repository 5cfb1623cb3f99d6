"""Two-level rows: a row of V logits as blocks, so that a draw or an argmax touches V elements only in plain reductions.

XLA on a CPU runs `jnp.argmax`, a full cumulative sum or a gather of V elements one element at a
time; block reductions run vectorised, and what is left is a search over the blocks and one inside
the chosen block.

The block layout is part of the law of a draw: with the same uniforms every implementation picks the
block by the first and the token inside it by the second, so they agree up to rounding.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

# 256 divides the vocabularies of SmolLM2 (49,152) and Llama 3 (128,256); 128 that of Qwen2.5 (151,936).
WIDE_BLOCK = 256
NARROW_BLOCK = 128


def block_size(vocab: int) -> int:
    """Tokens per block for a vocabulary; a short row is one block."""
    if vocab <= WIDE_BLOCK:
        return vocab
    return NARROW_BLOCK if vocab % WIDE_BLOCK and vocab % NARROW_BLOCK == 0 else WIDE_BLOCK


def split(x: Array, fill: float) -> Array:
    """Reshape [..., V] into blocks [..., blocks, size]; a last block that falls short is filled with `fill`."""
    size = block_size(x.shape[-1])
    short = -x.shape[-1] % size
    if short:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)], constant_values=fill)
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def take_block(blocks: Array, index: Array) -> Array:
    """Block `index` [...] of blocks [..., blocks, size]: [..., size]."""
    return jnp.take_along_axis(blocks, index[..., None, None], axis=-2, mode="promise_in_bounds")[..., 0, :]


def first_true(mask: Array) -> Array:
    """Index of the first True along the last axis, int32; the axis's length where there is none."""
    index = lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    return jnp.min(jnp.where(mask, index, mask.shape[-1]), axis=-1)


def argmax(blocks: Array, block_max: Array, maximum: Array) -> Array:
    """Lowest id that attains the maximum.

    Args:
        blocks: [..., blocks, size] logits.
        block_max: [..., blocks] maximum of each block.
        maximum: [...] maximum of the row.

    Returns:
        [...] int32 token ids.
    """
    block = first_true(block_max == maximum[..., None])
    return block * blocks.shape[-1] + first_true(take_block(blocks, block) == maximum[..., None])


def pick(weights: Array, uniform: Array) -> Array:
    """Inverse CDF along the last axis: first index whose running sum exceeds uniform * total.

    An index of weight zero is never returned while any weight is positive: a running sum is rounded
    and need not be monotone, so that the test alone would not exclude it.

    Args:
        weights: [..., n], >= 0.
        uniform: [...], in (0, 1).

    Returns:
        [...] int32.
    """
    running = jnp.cumsum(weights, axis=-1)
    positive = weights > 0
    first = first_true(positive & (running > uniform[..., None] * running[..., -1:]))
    index = lax.broadcasted_iota(jnp.int32, weights.shape, weights.ndim - 1)
    last_positive = jnp.max(jnp.where(positive, index, 0), axis=-1)
    return jnp.minimum(first, last_positive)


class RowSums(NamedTuple):
    """Sums of exp(x - maximum) over the blocks of a row: softmax(x) = exp(x - maximum) / total."""

    maximum: Array  # [...]
    block_sums: Array  # [..., blocks]
    total: Array  # [...]


def row_sums(blocks: Array) -> RowSums:
    """RowSums of logits in blocks [..., blocks, size]."""
    maximum = jnp.max(jnp.max(blocks, axis=-1), axis=-1)
    block_sums = jnp.sum(jnp.exp(blocks - maximum[..., None, None]), axis=-1)
    return RowSums(maximum, block_sums, jnp.sum(block_sums, axis=-1))


def draw(blocks: Array, sums: RowSums, uniforms: Array) -> Array:
    """Token [...] int32 from softmax of logits in blocks; uniforms [..., 2] pick the block, then the token."""
    block = pick(sums.block_sums, uniforms[..., 0])
    inside = jnp.exp(take_block(blocks, block) - sums.maximum[..., None])
    return block * blocks.shape[-1] + pick(inside, uniforms[..., 1])
