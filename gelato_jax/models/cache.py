"""The key/value cache: a pair of arrays for each group of layers, one length per row.

A group is one layer; or, where weights are in blocks, all layers in a stack (`decoder`).

A row's valid slots are those below its length, so rolling back rejected tokens is setting a length;
slots at or above it hold garbage that the next write covers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gelato_jax.config import ModelConfig
from gelato_kernels import write_window

KeyValue = tuple[Array, Array]
"""Keys and values of one layer: `[B, K, S, H]` in a cache, `[B, K, T, H]` fresh from a window; of L layers in a stack
`[B, L, K, S, H]` and `[B, L, K, T, H]`."""


class Joined(NamedTuple):
    """One group of layers of several rows, each of which keeps arrays of its own."""

    rows: tuple[KeyValue, ...]  # each [1, ...]


Cache = tuple[KeyValue | Joined, ...]
"""A group of layers after another."""

Fresh = tuple[KeyValue, ...]
"""What a window gives a cache, layers in their order: the groups of a cache, or parts of its one group."""


def allocate(config: ModelConfig, rows: int, slots: int, dtype: DTypeLike = jnp.float32) -> Cache:
    """An empty cache of `slots` slots for `rows` rows."""
    layers = (config.num_layers,) if config.is_stacked else ()
    shape = (rows, *layers, config.num_kv_heads, slots, config.head_dim)
    groups = 1 if config.is_stacked else config.num_layers
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(groups))


def join_rows(caches: Sequence[Cache]) -> Cache:
    """One batch of caches of one row each, without copying them; `split_rows` undoes it."""
    return caches[0] if len(caches) == 1 else tuple(map(Joined, zip(*caches, strict=True)))


def split_rows(cache: Cache, rows: int) -> tuple[Cache, ...]:
    """The caches of a batch that `join_rows` made."""
    return (
        (cache,)
        if rows == 1
        else tuple(zip(*(layer.rows for layer in cache if isinstance(layer, Joined)), strict=True))
    )


def pad_window(fresh: Fresh, window: int) -> Fresh:
    """As of a window of so many tokens: what is behind means nothing."""

    def pad(array: Array) -> Array:
        return jnp.pad(array, [*[(0, 0)] * (array.ndim - 2), (0, window - array.shape[-2]), (0, 0)])

    return jax.tree.map(pad, fresh)


def write(cache: Cache, fresh: Fresh, lengths: Array, *, after: Array) -> Cache:
    """Write a window's keys and values after each row's `lengths [B]`, in place when donated.

    A cache holds the longest text and the widest window after it (`decoding.job.buffer_slots` sees to it); what would
    pass the end is dropped.

    Args:
        cache: what the window attended to.
        fresh: the window's keys and values, a pair `[B, K, T, H]` per layer.
        lengths: valid slots of each row before the window, `[B]` int32.
        after: the window's last hidden states. A write that does not depend on the last read lets
            XLA run it before that read, and pay with a copy of every cache in every step.
    """
    never = (after.max() == jnp.inf).astype(jnp.int32)
    lengths = lengths + never
    if len(fresh) > len(cache):  # parts of a stack
        keys, values = zip(*fresh, strict=True)
        fresh = ((jnp.concatenate(keys, axis=1), jnp.concatenate(values, axis=1)),)

    def into(old: KeyValue, new: KeyValue, rows: slice) -> KeyValue:
        return write_window(old[0], new[0][rows], lengths[rows]), write_window(old[1], new[1][rows], lengths[rows])

    return tuple(
        Joined(tuple(into(own, new, slice(row, row + 1)) for row, own in enumerate(old.rows)))
        if isinstance(old, Joined)
        else into(old, new, slice(None))
        for old, new in zip(cache, fresh, strict=True)
    )
