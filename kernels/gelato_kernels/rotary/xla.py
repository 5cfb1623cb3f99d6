"""`rotary_attention` from its parts, with whatever serves `window_attention`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.attention.api import window_attention
from gelato_kernels.rotary.records import Turn


def rotary_attention(
    projected: Array, cache_key: Array, cache_value: Array, lengths: Array, turn: Turn
) -> tuple[Array, Array, Array]:
    """Fields of Attended."""
    cache_key, cache_value, turn = one_layer(cache_key, cache_value, turn)

    def attend(query: Array, key: Array, value: Array) -> Array:
        return window_attention(query, cache_key, cache_value, lengths, key, value, scale=turn.scale)

    return from_parts(projected, cache_key.shape[1], cache_key.shape[3], turn, attend)


def one_layer(cache_key: Array, cache_value: Array, turn: Turn) -> tuple[Array, Array, Turn]:
    """Of stacks the layer that is meant, copied."""
    if turn.layer is None:
        return cache_key, cache_value, turn
    layer = jnp.clip(turn.layer, 0, cache_key.shape[1] - 1)

    def take(stack: Array | None, axis: int) -> Any:
        return None if stack is None else lax.dynamic_index_in_dim(stack, layer, axis, keepdims=False)

    turn = dataclasses.replace(turn, query_norm=take(turn.query_norm, 0), key_norm=take(turn.key_norm, 0), layer=None)
    return take(cache_key, 1), take(cache_value, 1), turn


def from_parts(
    projected: Array, kv_heads: int, size: int, turn: Turn, attend: Callable[[Array, Array, Array], Array]
) -> tuple[Array, Array, Array]:
    """Split, norm, rotate, then `attend(query [B, T, N, H], key [B, K, T, H], value)`: fields of Attended."""
    batch, window, width = projected.shape
    heads = width // size - 2 * kv_heads
    tokens = projected.reshape(batch, window, -1, size)
    query, key, value = jnp.split(tokens, [heads, heads + kv_heads], axis=2)
    if turn.query_norm is not None and turn.key_norm is not None:
        query = _normed(query, turn.query_norm, turn.epsilon)
        key = _normed(key, turn.key_norm, turn.epsilon)
    query, key = (rotate(x, turn.cosine, turn.sine) for x in (query, key))

    def valid(x: Array) -> Array:
        return x if turn.rows is None else jnp.where((jnp.arange(window) < turn.rows[:, None])[..., None, None], x, 0.0)

    key, value = valid(key).transpose(0, 2, 1, 3), valid(value).transpose(0, 2, 1, 3)
    output = valid(attend(query, key, value))
    return output.reshape(batch, window, heads * size), key, value


def rotate(x: Array, cosine: Array, sine: Array) -> Array:
    """Rotate the pairs (i, i + H / 2) of x [B, T, heads, H] by the angles of cosines and sines [B, T, H / 2]."""
    cosine, sine = cosine[:, :, None], sine[:, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def _normed(x: Array, scale: Array, epsilon: float) -> Array:
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * scale
