"""What the fast backends share: rows folded for products, and one softmax over the cache's part and the window's own.

Letters: B rows, T tokens of the window, N query heads, K heads of keys and values, S slots, H numbers a head;
Q = N / K * T queries share a key head and are the rows of its products.
"""

from typing import Protocol

import jax.numpy as jnp
from jax import Array

MASKED = -1e30
"""Score of a key that is not attended to; finite, since -inf less a maximum of -inf would be nan."""


class ReadCache(Protocol):
    """The cache's part of a softmax whose other scores are known."""

    def __call__(
        self, query: Array, key: Array, value: Array, lengths: Array, maximum: Array
    ) -> tuple[Array, Array, Array]:
        """Attend to the first `lengths` slots.

        Args:
            query: [B, K, Q, H] float32, scaled.
            key: [B, K, S, H].
            value: [B, K, S, H].
            lengths: [B] int32.
            maximum: [B, K, Q, 1] of the other scores.

        Returns:
            Maximum m of all scores, sum of the cache's weights exp(score - m), both [B, K, Q, 1], and the values
            [B, K, Q, H] summed with these weights.
        """
        ...


def attend(
    read: ReadCache,
    query: Array,
    cache_key: Array,
    cache_value: Array,
    lengths: Array,
    window_key: Array,
    window_value: Array,
) -> Array:
    """`window_attention` of scaled queries, with `read` for the cache's part: [B, T, N, H] float32."""
    batch, window, heads, size = query.shape
    kv_heads = window_key.shape[1]
    groups = heads // kv_heads
    folded = query.transpose(0, 2, 1, 3).reshape(batch, kv_heads, groups * window, size)
    causal = jnp.arange(window) <= jnp.tile(jnp.arange(window), groups)[:, None]
    own = scores(folded, window_key, causal)
    maximum = own.max(axis=-1, keepdims=True)
    maximum, total, weighted = read(folded, cache_key, cache_value, lengths, maximum)
    weights = jnp.exp(own - maximum)
    output = (weighted + mix(weights, window_value)) / (total + weights.sum(axis=-1, keepdims=True))
    return output.reshape(batch, heads, window, size).transpose(0, 2, 1, 3)


def scores(query: Array, key: Array, mask: Array) -> Array:
    """Scores [B, K, Q, keys] of queries [B, K, Q, H]; `mask` is broadcast to them."""
    products = jnp.einsum("bkqh,bksh->bkqs", query.astype(key.dtype), key, preferred_element_type=jnp.float32)
    return jnp.where(mask, products, MASKED)


def mix(weights: Array, value: Array) -> Array:
    """Values [B, K, Q, H] summed with weights [B, K, Q, keys]."""
    return jnp.einsum("bkqs,bksh->bkqh", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)


def merge(maxima: Array, totals: Array, weighted: Array, maximum: Array) -> tuple[Array, Array, Array]:
    """One partial softmax of many (arXiv 2205.14135, section 3.1), as `ReadCache` returns it.

    Args:
        maxima: [B, K, P, Q, 1] of each part's scores.
        totals: [B, K, P, Q, 1] sums of exp(score - maximum of the part).
        weighted: [B, K, P, Q, H] values summed with these weights.
        maximum: [B, K, Q, 1] of the other scores.
    """
    maximum = jnp.maximum(maximum, maxima.max(axis=2))
    factors = jnp.exp(maxima - maximum[:, :, None])
    return maximum, (factors * totals).sum(axis=2), (factors * weighted).sum(axis=2)
