"""Textbook form of `write_window`: every slot asks whether a token of the window is its own."""

import jax.numpy as jnp
from jax import Array


def write_window(cache: Array, window: Array, lengths: Array) -> Array:
    """The cache."""
    tokens = window.shape[-2]
    token = jnp.arange(cache.shape[-2]) - lengths[:, None]  # of each slot
    token = token.reshape(-1, *[1] * (cache.ndim - 3), cache.shape[-2], 1)
    written = jnp.take_along_axis(window.astype(cache.dtype), jnp.clip(token, 0, max(tokens - 1, 0)), axis=-2)
    return jnp.where((token >= 0) & (token < tokens), written, cache) if tokens else cache
