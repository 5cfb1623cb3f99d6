"""Grouped-query attention of a window of new tokens over a row's cache and over itself.

The cache is only read: a layer returns its fresh keys and values, and one write follows the whole
forward pass. (Caches that pass through a `switch` inside a loop are copied on every trip.)
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from gelato_jax.config import ModelConfig
from gelato_jax.models.cache import KeyValue
from gelato_jax.models.layers import Linear, RMSNorm, rotate

SHORTEST_PREFIX = 256
"""Slots of a cache that a CPU reads at least."""
_MASKED = -1e30  # finite: -inf less a maximum of -inf would be nan


class Attention(nnx.Module):
    """Self-attention with rotary embedding, optional biases (Qwen2) and head norms (Qwen3)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self.qkv = Linear(config.hidden_size, width, config, bias=config.qkv_bias, rngs=rngs)
        self.out = Linear(config.num_heads * config.head_dim, config.hidden_size, config, rngs=rngs)
        self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None

    def __call__(self, x: Array, angles: Array, cached: KeyValue | None, lengths: Array) -> tuple[Array, KeyValue]:
        """Attend from `x [B, T, D]` to the first `lengths [B]` cached slots and to the window's past.

        Args:
            x: normed hidden states `[B, T, D]`.
            angles: rotary angles of the window's positions, `[B, T, H/2]`.
            cached: this layer's keys and values, `[B, K, S, H]` each; None: nothing is cached.
            lengths: valid slots of each row, `[B]` int32.

        Returns:
            The attention output `[B, T, D]` and the window's keys and values `[B, K, T, H]`.
        """
        query, key, value = self._project(x, angles)
        attended = attend(query, cached, lengths, (key, value))
        return self.out(attended), (key, value)

    def keys_values(self, x: Array, angles: Array) -> KeyValue:
        """Keys and values alone, `[B, K, T, H]`: what a skipped layer must leave in the cache."""
        _, key, value = self._project(x, angles)
        return key, value

    def _project(self, x: Array, angles: Array) -> tuple[Array, Array, Array]:
        num_heads, num_kv_heads, head_dim = self.heads
        batch, window, _ = x.shape
        qkv = self.qkv(x).reshape(batch, window, num_heads + 2 * num_kv_heads, head_dim)
        query, key, value = jnp.split(qkv, [num_heads, num_heads + num_kv_heads], axis=2)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, angles), rotate(key, angles)
        return query, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)


def attend(query: Array, cached: KeyValue | None, lengths: Array, fresh: KeyValue) -> Array:
    """Softmax attention over cached and fresh keys, `[B, T, N, H]` -> `[B, T, N * H]` float32.

    With `cached` None the window attends to itself alone, as whole sequences do in training.

    On a CPU only a prefix of the cache is read, the shortest of a few sizes that holds every row:
    time follows the text, not the buffer. The choice is a `switch` whose branches only read (a loop
    over blocks would carry the cache, and XLA copies what a loop carries). Elsewhere one pass reads
    the whole buffer, since an accelerator's `switch` waits for the host, at every layer.
    """
    batch, window, num_heads, head_dim = query.shape
    num_kv_heads = fresh[0].shape[1]
    groups = num_heads // num_kv_heads
    folded = query.transpose(0, 2, 1, 3).reshape(batch, num_kv_heads, groups * window, head_dim)
    folded = folded * head_dim**-0.5
    causal = jnp.arange(window) <= jnp.tile(jnp.arange(window), groups)[:, None]
    own = _scores(folded, fresh[0], causal)
    maximum = own.max(axis=-1, keepdims=True)
    total = weighted = 0.0
    if cached is not None:
        maximum, total, weighted = lax.platform_dependent(
            folded, cached, lengths, maximum, cpu=_read_prefix, default=_read_all
        )
    weights = jnp.exp(own - maximum)
    output = (weighted + _mix(weights, fresh[1])) / (total + weights.sum(axis=-1, keepdims=True))
    output = output.reshape(batch, num_heads, window, head_dim)
    return output.transpose(0, 2, 1, 3).reshape(batch, window, num_heads * head_dim)


def _scores(query: Array, key: Array, mask: Array) -> Array:
    """Scores `[B, K, Q, keys]` of folded queries `[B, K, Q, H]`; `mask` is broadcast to them."""
    scores = jnp.einsum("bkqh,bksh->bkqs", query.astype(key.dtype), key, preferred_element_type=jnp.float32)
    return jnp.where(mask, scores, _MASKED)


def _mix(weights: Array, value: Array) -> Array:
    """Values `[B, K, Q, H]` summed with weights `[B, K, Q, keys]`."""
    return jnp.einsum("bkqs,bksh->bkqh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)


def _read_all(query: Array, cached: KeyValue, lengths: Array, maximum: Array) -> tuple[Array, Array, Array]:
    """The cache's part of a softmax whose other scores have this `maximum`: new maximum, weight, weighted values."""
    mask = jnp.arange(cached[0].shape[2]) < lengths[:, None, None, None]
    scores = _scores(query, cached[0], mask)
    maximum = jnp.maximum(maximum, scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - maximum)
    return maximum, weights.sum(axis=-1, keepdims=True), _mix(weights, cached[1])


def _read_prefix(query: Array, cached: KeyValue, lengths: Array, maximum: Array) -> tuple[Array, Array, Array]:
    """`_read_all` of the shortest of a few prefixes that holds every row."""

    def branch(slots: int):
        return lambda: _read_all(query, (cached[0][:, :, :slots], cached[1][:, :, :slots]), lengths, maximum)

    slots = cached[0].shape[2]
    # Each size costs compile time in every layer: steps of four, not of two.
    sizes = [size for size in (SHORTEST_PREFIX * 4**step for step in range(8)) if size < slots] + [slots]
    index = sum((lengths.max() > size).astype(jnp.int32) for size in sizes[:-1])
    return lax.switch(index, [branch(size) for size in sizes])
