"""Sweeps for XLA, shaped for CPUs: block reductions run vectorised, and what is not used of them is not computed."""

import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import Scale, argmax, residual_weights, split
from gelato_kernels.sweeps.records import Statistics, Sweeps

# exp(-200) is 0 in float32, so the clamp changes no probability; it keeps 0 * -inf out of the entropy's sum.
LOWEST_EXPONENT = -200.0


def statistics(logits: Array, temperature: Array | None) -> Statistics:
    """See `Sweeps`."""
    blocks = split(logits, -jnp.inf)
    block_max = jnp.max(blocks, axis=-1)
    maximum = jnp.max(block_max, axis=-1)
    below = jnp.maximum(blocks - maximum[..., None, None], LOWEST_EXPONENT)
    weights = jnp.exp(below)
    block_sums = jnp.sum(weights, axis=-1)
    total = jnp.sum(block_sums, axis=-1)
    weighted = jnp.sum(jnp.sum(weights * below, axis=-1), axis=-1)
    if temperature is not None:
        # Not from `below`: a high temperature brings back what the clamp has cut.
        scaled = (blocks - maximum[..., None, None]) / temperature[..., None, None]
        block_sums = jnp.sum(jnp.exp(scaled), axis=-1)
    return Statistics(maximum, total, weighted, argmax(blocks, block_max, maximum), block_sums)


def residual(target: Array, draft: Array, target_scale: Scale, draft_scale: Scale, alone: Array) -> Array:
    """See `Sweeps`."""
    x, y = split(target, -jnp.inf), split(draft, -jnp.inf)
    return jnp.sum(residual_weights(x, y, target_scale, draft_scale, alone), axis=-1)


SWEEPS = Sweeps(statistics, residual)
