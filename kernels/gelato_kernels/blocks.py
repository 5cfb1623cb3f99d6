"""Two-level rows: a row of V logits as blocks, so that a draw or an argmax touches V elements only in plain reductions.

XLA on a CPU runs `jnp.argmax`, a full cumulative sum or a gather of V elements one element at a
time; block reductions run vectorised, and what is left is a search over the blocks and one inside
the chosen block.

The block layout is part of the distribution of a draw: with the same uniforms every implementation picks the
block by the first and the token inside it by the second, so they agree up to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
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


def to_blocks(x: Array, fill: float) -> Array:
    """Reshape [..., V] into blocks [..., blocks, size]; a last block that falls short is filled with `fill`."""
    size = block_size(x.shape[-1])
    short = -x.shape[-1] % size
    if short:
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)], constant_values=fill)
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def take_block(blocks: Array, index: Array) -> Array:
    """Block `index` [...] of blocks [..., blocks, size]: [..., size]."""
    return jnp.take_along_axis(blocks, index[..., None, None], axis=-2, mode="promise_in_bounds")[..., 0, :]


def read_block(logits: Array, block: Array) -> tuple[Array, Array]:
    """One block of each row of logits [..., V], of which nothing else is read.

    Args:
        logits: [..., V] floating.
        block: [...] int32.

    Returns:
        [..., size] float32, and [...] int32 the id of its first column. A last block that falls short begins early,
        and is -inf where it repeats the block before.
    """
    vocab = logits.shape[-1]
    first, kept = block_place(block, vocab)
    size = kept.shape[-1]
    slices = jax.vmap(lambda row, start: lax.dynamic_slice(row, (start,), (size,)))
    values = slices(logits.reshape(-1, vocab), first.reshape(-1)).reshape(*block.shape, size).astype(jnp.float32)
    return jnp.where(kept, values, -jnp.inf), first


def block_place(block: Array, vocab: int) -> tuple[Array, Array]:
    """Where a slice that holds a block begins, [...] int32, and which of its columns are the block's, [..., size]."""
    size = block_size(vocab)
    first = jnp.minimum(block * size, vocab - size)
    return first, first[..., None] + jnp.arange(size) >= (block * size)[..., None]


def first_true(mask: Array) -> Array:
    """Index of the first True along the last axis, int32; the axis's length where there is none."""
    index = lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    return jnp.min(jnp.where(mask, index, mask.shape[-1]), axis=-1)


def argmax(blocks: Array, block_max: Array, maximum: Array, vocab: int) -> Array:
    """Lowest id that attains the maximum; some id of the vocabulary where a logit is nan.

    Args:
        blocks: [..., blocks, size] logits.
        block_max: [..., blocks] maximum of each block.
        maximum: [...] maximum of the row.
        vocab: V; what the last block has beyond it is filling.

    Returns:
        [...] int32 token ids.
    """
    block = jnp.minimum(first_true(block_max == maximum[..., None]), block_max.shape[-1] - 1)
    found = block * blocks.shape[-1] + first_true(take_block(blocks, block) == maximum[..., None])
    return jnp.minimum(found, vocab - 1)


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


def draw(
    read: Callable[[Array], tuple[Array, Array]],
    maximum: Array,
    block_sums: Array,
    uniforms: Array,
    temperature: Array | None = None,
) -> Array:
    """Token [...] int32 from softmax(logits / temperature).

    Args:
        read: a block of each row and its first id, as `read_block` gives them.
        maximum: [...] of each row.
        block_sums: [..., blocks] of exp((x - maximum) / temperature).
        uniforms: [..., 2]: the first picks the block, the second the token inside it.
        temperature: [...] above 0; None is 1.
    """
    values, first = read(pick(block_sums, uniforms[..., 0]))
    below = values - maximum[..., None]
    inside = jnp.exp(below if temperature is None else below / temperature[..., None])
    return first + pick(inside, uniforms[..., 1])


class Scale(NamedTuple):
    """What makes a row of logits a distribution: p(x) = exp(x - maximum - log_total)."""

    maximum: Array  # [B]
    log_total: Array  # [B]


def residual_weights(target: Array, draft: Array, target_scale: Scale, draft_scale: Scale) -> Array:
    """max(p - q, 0) of logits [B, ...]."""
    wide = (slice(None), *[None] * (target.ndim - 1))

    def probability(x: Array, scale: Scale) -> Array:
        # exp(d - log S), not exp(d) / S: a product may be fused with the subtraction, unrounded, and equal rows would
        # then leave a residual of rounding errors.
        return jnp.exp(x - scale.maximum[wide] - scale.log_total[wide])

    return jnp.maximum(probability(target, target_scale) - probability(draft, draft_scale), 0.0)
