"""From logits to the distributions that are sampled from and verified, as unnormalised log weights.

Greedy decoding is the point mass on the argmax: one code path, and temperature stays a number.
"""

import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.decoding.records import Sampling


def shape_logits(logits: Array, sampling: Sampling, temperature_scale: Array | float = 1.0) -> Array:
    """Log weights of the distribution at a temperature, top-k and top-p; removed tokens are -inf.

    Args:
        logits: [..., V] float32; [B, ..., V] where the distribution is each row's own.
        sampling: the distribution asked for, leaves [] or [B].
        temperature_scale: [...] factor on the temperature (a draft's; 0 stays greedy).

    Returns:
        [..., V] float32, unnormalised.
    """
    shape = logits.shape[:-1]

    def spread(number: Array) -> Array:
        return jnp.broadcast_to(number.reshape(number.shape + (1,) * (len(shape) - number.ndim)), shape)

    temperature = spread(sampling.temperature) * temperature_scale
    return gelato_kernels.warp_logits(logits, temperature, top_k=spread(sampling.top_k), top_p=spread(sampling.top_p))
