"""`window_attention` by the compiled kernel."""

import jax
import jax.numpy as jnp
from jax import Array


def window_attention(
    query: Array, cache_key: Array, cache_value: Array, lengths: Array, window_key: Array, window_value: Array
) -> Array:
    """Attention [B, T, N, H] float32 of scaled queries; arrays as in the op, both caches of one dtype."""
    call = jax.ffi.ffi_call(
        "gelato_window_attention", jax.ShapeDtypeStruct(query.shape, jnp.float32), vmap_method="sequential"
    )
    fresh = (window_key.astype(jnp.float32), window_value.astype(jnp.float32))
    return call(query.astype(jnp.float32), cache_key, cache_value, lengths, *fresh)
