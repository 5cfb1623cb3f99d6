"""Textbook form of `quantized_matmul`."""

import jax.numpy as jnp
from jax import Array


def quantized_matmul(x: Array, weights: Array, scale: Array) -> Array:
    """Product [..., out] of x [..., in] and the float32 weights that int8 [out, in] and scales [out] stand for."""
    return jnp.matmul(x, (weights * scale[:, None]).T, precision="highest")
