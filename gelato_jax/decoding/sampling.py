"""From logits to the distributions that are sampled from and verified, as unnormalised log weights.

Greedy decoding is the point mass on the argmax: one code path, and temperature stays a number.
"""

import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding.records import Sampling
from gelato_jax.system import Payload


def shape_logits(logits: Array, sampling: Sampling, temperature_scale: Array | float = 1.0) -> Array:
    """Log weights of the law at a temperature, top-k and top-p; removed tokens are -inf.

    Args:
        logits: [..., V] float32.
        sampling: the law asked for.
        temperature_scale: [...] factor on the temperature (a draft's; 0 stays greedy).

    Returns:
        [..., V] float32, unnormalised.
    """
    greedy = gelato_kernels.entropy(logits).argmax[..., None]
    point_mass = jnp.where(jnp.arange(logits.shape[-1]) == greedy, 0.0, -jnp.inf)
    temperature = sampling.temperature * jnp.asarray(temperature_scale)[..., None]
    sampled = sampling.temperature > 0
    weights = jnp.where(sampled, logits / jnp.where(sampled, temperature, 1.0), point_mass)
    # Truncation is bisection over the vocabulary; the usual case pays nothing for it.
    weights = lax.cond(
        sampled & (sampling.top_k > 0),
        lambda w: gelato_kernels.top_k_logits(w, sampling.top_k),
        lambda w: w,
        weights,
    )
    return lax.cond(
        sampled & (sampling.top_p < 1.0),
        lambda w: gelato_kernels.top_p_logits(w, sampling.top_p),
        lambda w: w,
        weights,
    )


def shape_payload(weights: Array, payload: Payload) -> Array:
    """The draft's law as its payload can carry it: cut or rounded *before* sampling.

    Args:
        weights: [..., U] log weights of q.
        payload: the scheme; only `top_p`, `top_k` and `quantized` change q.

    Returns:
        [..., U] log weights of the q that is sampled from, sent, and used in ratio and residual.
    """
    match payload.scheme:
        case "top_p":
            return gelato_kernels.top_p_logits(weights, payload.top_p)
        case "top_k":
            return gelato_kernels.top_k_logits(weights, payload.top_k)
        case "quantized":
            # Relative to the likeliest token, which therefore never rounds to zero.
            levels = (2.0**payload.bits) - 1.0
            relative = jnp.exp(weights - weights.max(axis=-1, keepdims=True))
            return jnp.log(jnp.round(relative * levels))
        case _:
            return weights


def next_token(weights: Array, uniforms: Array) -> Array:
    """Draw from log weights `[B, V]` with uniforms `[B, 2]`: `[B]` int32."""
    return gelato_kernels.sample(weights, uniforms)
