"""The one convention for random numbers: kernels hold no generator, noise is made here and passed in."""

import jax
import jax.numpy as jnp
from jax import Array

# 23 bits plus the half fill float32's 24-bit significand: every value is exact and none is 0 or 1.
MANTISSA_BITS = 23


def uniforms(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform numbers u = (m + 0.5) * 2^-23 with m the upper 23 of 32 random bits.

    Args:
        key: one typed key.
        shape: shape of the result.

    Returns:
        float32 array, 2^-24 <= u <= 1 - 2^-24: never 0, never 1.
    """
    return bits_to_uniforms(jax.random.bits(key, shape, jnp.uint32))


def bits_to_uniforms(bits: Array) -> Array:
    """`uniforms` of random bits at hand, uint32."""
    mantissa = bits >> (32 - MANTISSA_BITS)
    return (mantissa.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-MANTISSA_BITS)


def gumbel_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard Gumbel noise -log(-log u) from `uniforms`; always finite.

    Args:
        key: one typed key.
        shape: shape of the result.

    Returns:
        float32 array.
    """
    return uniforms_to_gumbel(uniforms(key, shape))


def uniforms_to_gumbel(uniforms: Array) -> Array:
    """`gumbel_noise` of uniforms at hand."""
    return -jnp.log(-jnp.log(uniforms))
