"""Textbook form of `sample`: the whole softmax, then the two-step inverse CDF over it."""

import jax
import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import pick, take_block, to_blocks


def inverse_cdf(probabilities: Array, uniforms: Array) -> Array:
    """Token [...] from probabilities [..., V] (any positive total): block, then token."""
    blocks = to_blocks(probabilities, 0.0)
    block = pick(jnp.sum(blocks, axis=-1), uniforms[..., 0])
    return block * blocks.shape[-1] + pick(take_block(blocks, block), uniforms[..., 1])


def sample(logits: Array, uniforms: Array) -> Array:
    """Token [...] int32 from logits [..., V]."""
    return inverse_cdf(jax.nn.softmax(logits, axis=-1), uniforms)
