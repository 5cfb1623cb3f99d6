"""Textbook form of `unembed_entropy`: float32 weights, logits, then each statistic by itself."""

import jax.numpy as jnp
from jax import Array

from gelato_kernels.token_stats import reference


def unembed_entropy(
    hidden: Array, weight: Array, scale: Array | None, uniforms: Array | None, temperature: Array | None
) -> tuple[Array | None, ...]:
    """Fields of TokenStats for hidden [..., D] and weight [V, D]."""
    wide = weight.astype(jnp.float32) if scale is None else weight * scale[:, None]
    return reference.token_stats(jnp.matmul(hidden, wide.T, precision="highest"), uniforms, temperature)
