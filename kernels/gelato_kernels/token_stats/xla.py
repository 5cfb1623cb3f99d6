"""Two-level form of `entropy` for XLA, shaped for CPUs: three sweeps of the row and two small searches."""

import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import RowSums, argmax, draw, row_sums, split

# exp(-200) is 0 in float32, so the clamp changes no probability; it keeps 0 * -inf out of the entropy's sum.
LOWEST_EXPONENT = -200.0


def token_stats(logits: Array, uniforms: Array | None, temperature: Array | None) -> tuple[Array | None, ...]:
    """Fields of TokenStats for logits [..., V].

    With d = x - max, S = sum e^d and T = sum d e^d: logsumexp = max + log S, H = log S - T / S.
    """
    blocks = split(logits, -jnp.inf)
    block_max = jnp.max(blocks, axis=-1)
    maximum = jnp.max(block_max, axis=-1)
    below = jnp.maximum(blocks - maximum[..., None, None], LOWEST_EXPONENT)
    weights = jnp.exp(below)
    block_sums = jnp.sum(weights, axis=-1)
    total = jnp.sum(block_sums, axis=-1)
    weighted = jnp.sum(jnp.sum(weights * below, axis=-1), axis=-1)
    log_total = jnp.log(total)
    best = argmax(blocks, block_max, maximum)
    token = None
    if uniforms is not None:
        token = _draw(blocks, RowSums(maximum, block_sums, total), best, uniforms, temperature)
    return log_total - weighted / total, maximum + log_total, 1.0 / total, best, token


def _draw(blocks: Array, sums: RowSums, best: Array, uniforms: Array, temperature: Array | None) -> Array:
    if temperature is None:
        return draw(blocks, sums, uniforms)
    safe = jnp.where(temperature > 0, temperature, 1.0)
    tempered = (blocks - sums.maximum[..., None, None]) / safe[..., None, None]
    return jnp.where(temperature > 0, draw(tempered, row_sums(tempered), uniforms), best)
