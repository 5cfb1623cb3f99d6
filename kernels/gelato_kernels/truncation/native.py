"""Truncations by the compiled kernel: thresholds among the few tokens that may be kept, nothing is sorted."""

import jax
import jax.numpy as jnp
from jax import Array


def warp_logits(logits: Array, temperature: Array, top_k: Array, top_p: Array) -> Array:
    """Logits [..., V] at temperature, top_k and top_p [...]; see the API."""
    warped = jax.ShapeDtypeStruct(logits.shape, jnp.float32)
    return jax.ffi.ffi_call("gelato_warp", warped, vmap_method="broadcast_all")(logits, temperature, top_k, top_p)


def top_p_logits(logits: Array, top_p: Array) -> Array:
    """Logits [..., V] cut at top_p [...]; see the API."""
    return warp_logits(logits, jnp.ones_like(top_p), jnp.zeros(top_p.shape, jnp.int32), top_p)


def top_k_logits(logits: Array, k: Array) -> Array:
    """Logits [..., V] cut to k [...]; see the API."""
    ones = jnp.ones(k.shape, jnp.float32)
    return warp_logits(logits, ones, k, ones)
