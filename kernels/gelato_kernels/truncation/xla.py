"""Bisection on the bit pattern of the threshold: ends exactly, after at most 30 (top-p) or 32 (top-k) sweeps.

Float32 numbers of one sign are ordered as their bit patterns, so halving an interval of integers
visits every float that a threshold can be. The sum or count of what is kept falls as the threshold
rises: a reduction adds in one fixed order whatever the threshold, and rounding is monotone.
"""

import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.blocks import argmax, to_blocks

_BITS_OF_ONE = 0x3F800000
_BITS_BELOW_SIGN = 0x7FFFFFFF


def _float_of(bits: Array) -> Array:
    return lax.bitcast_convert_type(bits, jnp.float32)


def top_p_logits(logits: Array, top_p: Array) -> Array:
    """Logits [..., V] cut at top_p [...]; see the API."""
    # The threshold is sought among the weights exp(x - max), in [0, 1] and 1 for the largest, which always stays.
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))

    def kept_mass(threshold: Array) -> Array:
        return jnp.sum(jnp.where(weights >= threshold[..., None], weights, 0.0), axis=-1)

    wanted = top_p * kept_mass(jnp.zeros_like(top_p))

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        enough, too_high = bounds
        middle = (enough + too_high) >> 1
        holds = kept_mass(_float_of(middle)) >= wanted
        searching = too_high - enough > 1
        return jnp.where(searching & holds, middle, enough), jnp.where(searching & ~holds, middle, too_high)

    enough = jnp.zeros(top_p.shape, jnp.int32)
    too_high = jnp.where(top_p >= 1, 1, _BITS_OF_ONE + 1)
    enough, _ = lax.while_loop(lambda bounds: jnp.any(bounds[1] - bounds[0] > 1), halve, (enough, too_high))
    return jnp.where(weights >= _float_of(enough)[..., None], logits, -jnp.inf)


def _ordered(bits: Array) -> Array:
    """Bits of a float to an int32 in the floats' order, and back: negative floats run the other way."""
    return jnp.where(bits < 0, bits ^ _BITS_BELOW_SIGN, bits)


def top_k_logits(logits: Array, k: Array) -> Array:
    """Logits [..., V] cut to k [...]; see the API."""
    vocab = logits.shape[-1]
    k = jnp.where((k <= 0) | (k > vocab), vocab, k)

    def kept(threshold: Array) -> Array:
        return jnp.sum((logits >= _float_of(_ordered(threshold))[..., None]).astype(jnp.int32), axis=-1)

    def middle_of(enough: Array, too_high: Array) -> Array:
        return (enough & too_high) + ((enough ^ too_high) >> 1)  # the interval's width itself can exceed int32

    def searching(enough: Array, too_high: Array, count: Array) -> Array:
        return (middle_of(enough, too_high) != enough) & (count != k)

    def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        enough, too_high, count = state
        middle = middle_of(enough, too_high)
        kept_count = kept(middle)
        active = searching(*state)
        up, down = active & (kept_count >= k), active & (kept_count < k)
        return jnp.where(up, middle, enough), jnp.where(down, middle, too_high), jnp.where(up, kept_count, count)

    lowest = _ordered(lax.bitcast_convert_type(jnp.full(k.shape, -jnp.inf, jnp.float32), jnp.int32))
    highest = _ordered(lax.bitcast_convert_type(jnp.max(logits, axis=-1), jnp.int32))
    state = (lowest, highest + 1, jnp.full(k.shape, vocab, jnp.int32))
    enough, _, _ = lax.while_loop(lambda s: jnp.any(searching(*s)), halve, state)
    return jnp.where(logits >= _float_of(_ordered(enough))[..., None], logits, -jnp.inf)


def warp_logits(logits: Array, temperature: Array, top_k: Array, top_p: Array) -> Array:
    """Logits [..., V] at temperature, top_k and top_p [...]; see the API."""
    vocab, sampled = logits.shape[-1], temperature > 0
    blocks = to_blocks(logits, -jnp.inf)
    block_max = jnp.max(blocks, axis=-1)
    likeliest = argmax(blocks, block_max, jnp.max(block_max, axis=-1), vocab)
    point_mass = jnp.where(jnp.arange(vocab) == likeliest[..., None], 0.0, -jnp.inf)
    warm = logits / jnp.where(sampled, temperature, 1.0)[..., None]
    weights = jnp.where(sampled[..., None], warm, point_mass)
    # Truncation is bisection over the vocabulary; the usual case pays nothing for it.
    top_k, top_p = jnp.where(sampled, top_k, 0), jnp.where(sampled, top_p, 1.0)
    weights = lax.cond((top_k > 0).any(), top_k_logits, lambda weights, _: weights, weights, top_k)
    return lax.cond((top_p < 1.0).any(), top_p_logits, lambda weights, _: weights, weights, top_p)
