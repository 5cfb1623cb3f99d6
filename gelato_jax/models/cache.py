"""The key/value cache: one pair of arrays per layer, one length per row.

A row's valid slots are those below its length, so rolling back rejected tokens is setting a length;
slots at or above it hold garbage that the next write covers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from gelato_jax.config import ModelConfig

KeyValue = tuple[Array, Array]
"""Keys and values of one layer: `[B, K, S, H]` in a cache, `[B, K, T, H]` fresh from a window."""


class Joined(NamedTuple):
    """One layer of several rows, each of which keeps arrays of its own."""

    rows: tuple[KeyValue, ...]  # each [1, K, S, H]


Cache = tuple[KeyValue | Joined, ...]
"""A layer after another."""

Fresh = tuple[KeyValue, ...]
"""What a window gives a cache, a layer after another."""


def allocate(config: ModelConfig, rows: int, slots: int, dtype: DTypeLike = jnp.float32) -> Cache:
    """An empty cache of `slots` slots for `rows` rows.

    Layers are separate arrays: a stacked cache is copied slice by slice by XLA on a CPU.
    """
    shape = (rows, config.num_kv_heads, slots, config.head_dim)
    return tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers))


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


def write(cache: Cache, fresh: Fresh, lengths: Array, *, after: Array) -> Cache:
    """Write a window's keys and values after each row's `lengths [B]`, in place when donated.

    A cache holds the longest text and the widest window after it (`decoding.job.buffer_slots` sees to it): of several
    rows what would pass the end is dropped, of one alone the window would end on the last slot.

    Args:
        cache: what the window attended to.
        fresh: the window's keys and values, a pair `[B, K, T, H]` per layer.
        lengths: valid slots of each row before the window, `[B]` int32.
        after: the window's last hidden states. A write that does not depend on the last read lets
            XLA run it before that read, and pay with a copy of every cache in every step.
    """
    never = (after.max() == jnp.inf).astype(jnp.int32)
    lengths = lengths + never

    def into(old: KeyValue, new: KeyValue, rows: slice) -> KeyValue:
        return _write(old[0], new[0][rows], lengths[rows]), _write(old[1], new[1][rows], lengths[rows])

    return tuple(
        Joined(tuple(into(own, new, slice(row, row + 1)) for row, own in enumerate(old.rows)))
        if isinstance(old, Joined)
        else into(old, new, slice(None))
        for old, new in zip(cache, fresh, strict=True)
    )


@jax.jit  # so that all layers share one tracing and lowering; XLA inlines the calls
def _write(old: Array, new: Array, lengths: Array) -> Array:
    rows, heads, window, _ = new.shape
    new = new.astype(old.dtype)
    if rows == 1:  # one move of memory, where several rows are scattered and copied first
        return lax.dynamic_update_slice_in_dim(old, new, lengths[0], axis=2)
    slots = lengths[:, None, None] + jnp.arange(window)
    row, head = jnp.arange(rows)[:, None, None], jnp.arange(heads)[:, None]
    # Heads are indexed too: updates that span them want another layout on a TPU than the attention kernel reads, and
    # XLA would copy whole caches between the two at every step.
    return old.at[row, head, slots].set(new, mode="drop")
