"""`rotary_attention` by the compiled kernel: one call."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_kernels.rotary.records import Turn


def rotary_attention(
    projected: Array, cache_key: Array, cache_value: Array, lengths: Array, turn: Turn
) -> tuple[Array, ...]:
    """Fields of Attended; both caches of one dtype."""
    batch, window, width = projected.shape
    kv_heads, _, size = cache_key.shape[-3:]
    fresh = jax.ShapeDtypeStruct((batch, kv_heads, window, size), jnp.float32)
    out = jax.ShapeDtypeStruct((batch, window, width - 2 * kv_heads * size), jnp.float32)
    call = jax.ffi.ffi_call("gelato_rotary_attention", (out, fresh, fresh), vmap_method="sequential")
    none = jnp.zeros(0, jnp.float32)
    return tuple(
        call(
            projected,
            cache_key,
            cache_value,
            lengths,
            turn.cosine,
            turn.sine,
            none if turn.query_norm is None else turn.query_norm,
            none if turn.key_norm is None else turn.key_norm,
            jnp.zeros(0, jnp.int32) if turn.rows is None else turn.rows,
            jnp.zeros(0, jnp.int32) if turn.layer is None else turn.layer,
            scale=np.float32(turn.scale),
            epsilon=np.float32(turn.epsilon),
        )
    )
