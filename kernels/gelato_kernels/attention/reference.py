"""Textbook form of `window_attention`: one softmax over the keys of the cache and of the window, head by head."""

import jax
import jax.numpy as jnp
from jax import Array


def window_attention(
    query: Array, cache_key: Array, cache_value: Array, lengths: Array, window_key: Array, window_value: Array
) -> Array:
    """Attention [B, T, N, H] of scaled queries [B, T, N, H]; keys and values [B, K, S, H] cached, [B, K, T, H] new."""
    batch, window, heads, _ = query.shape
    groups = heads // cache_key.shape[1]
    key = jnp.repeat(jnp.concatenate([cache_key, window_key], axis=2), groups, axis=1)
    value = jnp.repeat(jnp.concatenate([cache_value, window_value], axis=2), groups, axis=1)
    written = jnp.arange(cache_key.shape[2]) < lengths[:, None, None]
    past = jnp.tril(jnp.ones((window, window), bool))
    seen = jnp.concatenate(
        [jnp.broadcast_to(mask, (batch, window, mask.shape[-1])) for mask in (written, past)], axis=-1
    )
    scores = jnp.einsum("btnh,bnsh->bnts", query, key, precision="highest")
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bnsh->btnh", weights, value, precision="highest")
