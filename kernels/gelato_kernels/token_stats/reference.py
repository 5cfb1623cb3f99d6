"""Textbook form of `entropy`: softmax, then each statistic by itself."""

import jax
import jax.numpy as jnp
from jax import Array

from gelato_kernels.sampling.reference import inverse_cdf


def token_stats(logits: Array, uniforms: Array | None, temperature: Array | None) -> tuple[Array | None, ...]:
    """Fields of TokenStats for logits [..., V]."""
    p = jax.nn.softmax(logits, axis=-1)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)
    logsumexp = jax.nn.logsumexp(logits, axis=-1)
    argmax = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return entropy, logsumexp, jnp.max(p, axis=-1), argmax, _draw(logits, argmax, uniforms, temperature)


def _draw(logits: Array, argmax: Array, uniforms: Array | None, temperature: Array | None) -> Array | None:
    if uniforms is None:
        return None
    if temperature is None:
        return inverse_cdf(jax.nn.softmax(logits, axis=-1), uniforms)
    safe = jnp.where(temperature > 0, temperature, 1.0)[..., None]
    drawn = inverse_cdf(jax.nn.softmax((logits - jnp.max(logits, axis=-1, keepdims=True)) / safe, axis=-1), uniforms)
    return jnp.where(temperature > 0, drawn, argmax)
