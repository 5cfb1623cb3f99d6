"""Textbook form of `rotary_attention`: its parts, and the textbook's attention."""

from jax import Array

from gelato_kernels.attention import reference
from gelato_kernels.rotary.records import Turn
from gelato_kernels.rotary.xla import from_parts, one_layer


def rotary_attention(
    projected: Array, cache_key: Array, cache_value: Array, lengths: Array, turn: Turn
) -> tuple[Array, Array, Array]:
    """Fields of Attended."""
    cache_key, cache_value, turn = one_layer(cache_key, cache_value, turn)

    def attend(query: Array, key: Array, value: Array) -> Array:
        return reference.window_attention(query * turn.scale, cache_key, cache_value, lengths, key, value)

    return from_parts(projected, cache_key.shape[1], cache_key.shape[3], turn, attend)
