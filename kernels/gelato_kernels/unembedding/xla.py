"""Form of `unembed_entropy` for XLA: a product, then one sweep over logits that a CPU keeps in its cache."""

import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.quantized.api import quantized_matmul
from gelato_kernels.sweeps import xla
from gelato_kernels.token_stats.two_level import token_stats


def unembed_entropy(
    hidden: Array, weight: Array, scale: Array | None, uniforms: Array | None, temperature: Array | None
) -> tuple[Array | None, ...]:
    """Fields of TokenStats for hidden [..., D] and weight [V, D]."""
    return token_stats(_logits(hidden, weight, scale), uniforms, temperature, sweeps=xla.SWEEPS)


def _logits(hidden: Array, weight: Array, scale: Array | None) -> Array:
    if scale is not None:
        return quantized_matmul(hidden, weight, scale)
    dimensions = (((hidden.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(hidden.astype(weight.dtype), weight, dimensions, preferred_element_type=jnp.float32)
