"""Textbook form of the truncations: a full sort."""

import jax
import jax.numpy as jnp
from jax import Array


def top_p_logits(logits: Array, top_p: Array) -> Array:
    """Logits [..., V] cut at top_p [...]; see the API."""
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    descending = jnp.flip(jnp.sort(weights, axis=-1), axis=-1)
    running = jnp.cumsum(descending, axis=-1)
    enough = running >= top_p[..., None] * running[..., -1:]
    threshold = jnp.take_along_axis(descending, jnp.argmax(enough, axis=-1)[..., None], axis=-1)
    return jnp.where((weights >= threshold) | (top_p[..., None] >= 1), logits, -jnp.inf)


def top_k_logits(logits: Array, k: Array) -> Array:
    """Logits [..., V] cut to k [...]; see the API."""
    vocab = logits.shape[-1]
    last = jnp.where((k <= 0) | (k > vocab), vocab, k) - 1
    descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    return jnp.where(logits >= jnp.take_along_axis(descending, last[..., None], axis=-1), logits, -jnp.inf)


def warp_logits(logits: Array, temperature: Array, top_k: Array, top_p: Array) -> Array:
    """Logits [..., V] at temperature, top_k and top_p [...]; see the API."""
    sampled = temperature > 0
    warm = top_k_logits(logits / jnp.where(sampled, temperature, 1.0)[..., None], top_k)
    likeliest = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return jnp.where(sampled[..., None], top_p_logits(warm, top_p), jnp.log(likeliest))
