"""Two-level form of `sample`: one sweep for the block sums, then only one block is looked at again."""

from functools import partial

from jax import Array

from gelato_kernels.blocks import draw, read_block
from gelato_kernels.sweeps.records import Sweeps


def sample(logits: Array, uniforms: Array, *, sweeps: Sweeps) -> Array:
    """Token [...] int32 from logits [..., V]."""
    seen = sweeps.statistics(logits, None)
    return draw(partial(read_block, logits), seen.maximum, seen.block_sums, uniforms)
