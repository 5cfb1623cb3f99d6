"""From logits to the distributions that are sampled from and verified, as unnormalised log weights.

Greedy decoding is the point mass on the argmax: one code path, and temperature stays a number.
"""

import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding.records import Sampling


def shape_logits(logits: Array, argmax: Array, sampling: Sampling, temperature_scale: Array | float = 1.0) -> Array:
    """Log weights of the distribution at a temperature, top-k and top-p; removed tokens are -inf.

    Args:
        logits: [..., V] float32.
        argmax: [...] int32 their likeliest token.
        sampling: the distribution asked for.
        temperature_scale: [...] factor on the temperature (a draft's; 0 stays greedy).

    Returns:
        [..., V] float32, unnormalised.
    """
    point_mass = jnp.where(jnp.arange(logits.shape[-1]) == argmax[..., None], 0.0, -jnp.inf)
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
