"""Grouped-query attention of a window of new tokens over a row's cache and over itself.

The cache is only read: a layer returns its fresh keys and values, and one write follows the whole
forward pass. (Caches that pass through a `switch` inside a loop are copied on every trip.)
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

import gelato_kernels
from gelato_jax.config import ModelConfig
from gelato_jax.models.cache import Joined, KeyValue
from gelato_jax.models.layers import Angles, Linear, RMSNorm, rotate

_MASKED = -1e30  # finite: -inf less a maximum of -inf would be nan


class Attention(nnx.Module):
    """Self-attention with rotary embedding, optional biases (Qwen2) and head norms (Qwen3)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs | None):
        self.heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self.qkv = Linear(config.hidden_size, width, config, bias=config.qkv_bias, rngs=rngs)
        self.out = Linear(config.num_heads * config.head_dim, config.hidden_size, config, rngs=rngs)
        self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None

    def __call__(
        self,
        x: Array,
        norm: RMSNorm,
        angles: Angles,
        cached: KeyValue | Joined | None,
        lengths: Array,
        valid: Array | None = None,
        layer: Array | None = None,
    ) -> tuple[Array, KeyValue]:
        """Attend from `x [B, T, D]` to the first `lengths [B]` cached slots and to the window's past.

        Args:
            x: hidden states `[B, T, D]`.
            norm: of what is attended from; the states themselves are what the attention is added to.
            angles: of the window's positions.
            cached: this layer's keys and values, `[B, K, S, H]` each, or each row's own; None: the window attends to
                itself alone, as whole sequences do in training. Only this case has a gradient.
            lengths: valid slots of each row, `[B]` int32.
            valid: `[B]` tokens of each window that count, or None for all.
            layer: of weights and caches that are stacks, which is meant, `[]` int32.

        Returns:
            `x` with the attention's output added, and the window's keys and values `[B, K, T, H]`.
        """
        projected = self.qkv(x, norm=norm, valid=valid, layer=layer)
        if cached is None:
            query, key, value = self._split(projected, angles, layer)
            attended = attend_to_itself(query, key, value)
        else:
            norms = None
            if self.q_norm is not None and self.k_norm is not None:
                norms = (self.q_norm.scale[...], self.k_norm.scale[...], self.q_norm.eps)
            attended, key, value = _attend(projected, cached, lengths, angles, norms, rows=valid, layer=layer)
        return self.out(attended, residual=x, valid=valid, layer=layer), (key, value)

    def keys_values(
        self, x: Array, norm: RMSNorm, angles: Angles, valid: Array | None = None, layer: Array | None = None
    ) -> KeyValue:
        """Keys and values alone, `[B, K, T, H]`: what a skipped layer must leave in the cache."""
        _, key, value = self._split(self.qkv(x, norm=norm, valid=valid, layer=layer), angles, layer)
        return key, value

    def _split(self, projected: Array, angles: Angles, layer: Array | None) -> tuple[Array, Array, Array]:
        """Queries `[B, T, N, H]`, keys and values `[B, K, T, H]` of what the projection gave."""
        num_heads, num_kv_heads, head_dim = self.heads
        tokens = projected.reshape(*projected.shape[:2], num_heads + 2 * num_kv_heads, head_dim)
        query, key, value = jnp.split(tokens, [num_heads, num_heads + num_kv_heads], axis=2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query, layer), self.k_norm(key, layer)
        query, key = rotate(query, angles), rotate(key, angles)
        return query, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)


def _attend(
    projected: Array,
    cached: KeyValue | Joined,
    lengths: Array,
    angles: Angles,
    norms: tuple[Array, Array, float] | None,
    rows: Array | None,
    layer: Array | None,
) -> tuple[Array, Array, Array]:
    """`rotary_attention` to a batch's cache, or row by row to each one's own."""
    if not isinstance(cached, Joined):
        return gelato_kernels.rotary_attention(
            projected, *cached, lengths, *angles, norms=norms, rows=rows, layer=layer
        )

    def attend(row: int, own: KeyValue) -> tuple[Array, Array, Array]:
        one = slice(row, row + 1)
        turned, counted = (angle[one] for angle in angles), None if rows is None else rows[one]
        return gelato_kernels.rotary_attention(
            projected[one], *own, lengths[one], *turned, norms=norms, rows=counted, layer=layer
        )

    parts = zip(*(attend(row, own) for row, own in enumerate(cached.rows)), strict=True)
    attended, key, value = (jnp.concatenate(part) for part in parts)
    return attended, key, value


def attend_to_itself(query: Array, key: Array, value: Array) -> Array:
    """Causal attention `[B, T, N * H]` of queries `[B, T, N, H]` to keys and values `[B, K, T, H]`."""
    batch, window, num_heads, head_dim = query.shape
    num_kv_heads = key.shape[1]
    groups = num_heads // num_kv_heads
    folded = query.transpose(0, 2, 1, 3).reshape(batch, num_kv_heads, groups * window, head_dim)
    causal = jnp.arange(window) <= jnp.tile(jnp.arange(window), groups)[:, None]
    scores = jnp.einsum("bkqh,bksh->bkqs", folded * head_dim**-0.5, key)
    scores = jnp.where(causal, scores, _MASKED)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    output = jnp.einsum("bkqs,bksh->bkqh", weights, value) / weights.sum(axis=-1, keepdims=True)
    return output.reshape(batch, num_heads, window, head_dim).transpose(0, 2, 1, 3).reshape(batch, window, -1)
