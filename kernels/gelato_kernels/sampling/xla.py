"""Two-level form of `sample`: block sums of the row, then only one block is looked at again."""

import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import draw, row_sums, split


def sample(logits: Array, uniforms: Array) -> Array:
    """Token [...] int32 from logits [..., V]."""
    blocks = split(logits, -jnp.inf)
    return draw(blocks, row_sums(blocks), uniforms)
