"""Sweeps for XLA, shaped for CPUs: block reductions run vectorised, and what is not used of them is not computed."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.blocks import Scale, argmax, residual_weights, to_blocks
from gelato_kernels.sweeps.records import Statistics, Sweeps

LOWEST_EXPONENT = -200.0
"""exp of it is 0 in float32: a clamp there changes no product with it, and keeps 0 * -inf out of the entropy's sum."""


def statistics(logits: Array, temperature: Array | None) -> Statistics:
    """See `Sweeps`."""
    blocks = to_blocks(logits, -jnp.inf)
    block_max = jnp.max(blocks, axis=-1)
    maximum = jnp.max(block_max, axis=-1)
    below = blocks - maximum[..., None, None]
    weights = jnp.exp(below)
    block_sums = _sums(weights)
    total = jnp.sum(block_sums, axis=-1)
    weighted = jnp.sum(jnp.sum(weights * jnp.maximum(below, LOWEST_EXPONENT), axis=-1), axis=-1)
    if temperature is not None:
        block_sums = _sums(jnp.exp(below / temperature[..., None, None]))
    return Statistics(maximum, total, weighted, argmax(blocks, block_max, maximum, logits.shape[-1]), block_sums)


def residual(target: Array, draft: Array, target_scale: Scale, draft_scale: Scale, needed: Array) -> Array:
    """See `Sweeps`."""

    def sweep() -> Array:
        x, y = to_blocks(target, -jnp.inf), to_blocks(draft, -jnp.inf)
        return _sums(residual_weights(x, y, target_scale, draft_scale))

    # Drafts that are accepted whole leave nothing to look for; asking costs a CPU nothing.
    shape = jax.eval_shape(sweep)
    return lax.cond(jnp.any(needed), sweep, lambda: jnp.zeros(shape.shape, shape.dtype))


def _sums(blocks: Array) -> Array:
    """Sums over each block, as a product: on a CPU a tenth faster than a reduction after an exponential."""
    return jnp.matmul(blocks, jnp.ones(blocks.shape[-1]), precision="highest")


SWEEPS = Sweeps(statistics, residual)
