"""Textbook form of `gumbel_argmax`."""

import jax.numpy as jnp
from jax import Array


def gumbel_argmax(logits: Array, noise: Array) -> Array:
    """Token [...] int32 from logits and noise [..., V]."""
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)
