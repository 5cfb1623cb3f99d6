"""Forms of `window_attention` for XLA's compilers.

On a CPU only a prefix of the cache is read, the shortest of a few sizes that holds every row: time
follows the text, not the buffer. The choice is a `switch` whose branches only read (a loop over
blocks would carry the cache, and XLA copies what a loop carries). Elsewhere one pass reads the
whole buffer, since an accelerator's `switch` waits for the host, at every call.
"""

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.attention.window import attend, mix, scores

SHORTEST_PREFIX = 256
"""Slots of a cache that a CPU reads at least."""


def _read_all(query: Array, key: Array, value: Array, lengths: Array, maximum: Array) -> tuple[Array, Array, Array]:
    """The cache's part (`ReadCache`) in one pass over every slot."""
    mask = jnp.arange(key.shape[2]) < lengths[:, None, None, None]
    cached = scores(query, key, mask)
    maximum = jnp.maximum(maximum, cached.max(axis=-1, keepdims=True))
    weights = jnp.exp(cached - maximum)
    return maximum, weights.sum(axis=-1, keepdims=True), mix(weights, value)


def _read_prefix(query: Array, key: Array, value: Array, lengths: Array, maximum: Array) -> tuple[Array, Array, Array]:
    """`_read_all` of the shortest of a few prefixes that holds every row."""

    def branch(slots: int):
        return lambda: _read_all(query, key[:, :, :slots], value[:, :, :slots], lengths, maximum)

    slots = key.shape[2]
    # Each size costs compile time at every call, in every layer of a model: steps of four, not of two.
    sizes = [size for size in (SHORTEST_PREFIX * 4**step for step in range(8)) if size < slots] + [slots]
    index = sum((lengths.max() > size).astype(jnp.int32) for size in sizes[:-1])
    return lax.switch(index, [branch(size) for size in sizes])


window_attention = partial(attend, _read_all)
window_attention_cpu = partial(attend, _read_prefix)
