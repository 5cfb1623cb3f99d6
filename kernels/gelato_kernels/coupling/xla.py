"""Two-level form of `gumbel_argmax`: XLA's own argmax runs one element at a time on a CPU."""

import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import argmax, to_blocks


def gumbel_argmax(logits: Array, noise: Array) -> Array:
    """Token [...] int32 from logits and noise [..., V]."""
    blocks = to_blocks(logits + noise, -jnp.inf)
    block_max = jnp.max(blocks, axis=-1)
    return argmax(blocks, block_max, jnp.max(block_max, axis=-1), logits.shape[-1])
