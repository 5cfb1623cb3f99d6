"""`window_attention` for Mosaic GPU: a program takes one query over a part of the cache, a vector of keys at a time.

A vector holds the keys of one slot, or of two or more where heads are narrower than a warpgroup. Parts
and letters are those of `pallas`; L numbers of a vector.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from gelato_kernels.attention.window import MASKED, attend, merge
from gelato_kernels.warpgroups import THREADS, call

PART_SLOTS = 64
"""Slots of a program (assumed: 27 queries of SmolLM2-135M over 1,024 slots are 432 programs)."""


def window_attention(*arrays: Array, interpret: bool) -> Array:
    """`window_attention` of scaled queries: [B, T, N, H] float32."""
    return attend(partial(_read, interpret), *arrays)


def _read(
    interpret: bool, query: Array, key: Array, value: Array, lengths: Array, maximum: Array
) -> tuple[Array, Array, Array]:
    """The cache's share (`ReadCache`): the partial softmaxes of its parts, merged."""
    batch, kv_heads, queries, size = query.shape
    slots = key.shape[2]
    lanes = max(size, THREADS)
    each = lanes // size  # slots of a vector
    parts = -(-slots // PART_SLOTS)
    query = jnp.tile(query.astype(key.dtype).astype(jnp.float32), each).reshape(-1, lanes)
    flat = [cache.reshape(batch * kv_heads, slots * size) for cache in (key, value)]
    lengths = jnp.repeat(jnp.clip(lengths, 0, slots), kv_heads)

    def body(query_ref: Any, key_ref: Any, value_ref: Any, lengths_ref: Any, weighted_ref: Any, sums_ref: Any) -> None:
        place, part = lax.axis_index("query"), lax.axis_index("part")
        head = lax.div(place, jnp.int32(queries))
        start = part * PART_SLOTS
        end = jnp.minimum(lengths_ref[head], start + PART_SLOTS)
        asked = query_ref[place, :]
        lane_slot = lax.div(lax.broadcasted_iota(jnp.int32, (lanes,), 0), jnp.int32(size))

        def add(index: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            before, total, weighted = so_far
            wanted = start + index * each
            first = jnp.minimum(wanted, slots - each)  # a last vector that falls short begins early
            vector = pl.ds(first * size, lanes)
            products = asked * key_ref[head, vector].astype(jnp.float32)
            maximum, scores = before, []
            for slot in range(each):
                score = jnp.sum(jnp.where(lane_slot == slot, products, 0.0)) if each > 1 else jnp.sum(products)
                live = (first + slot >= wanted) & (first + slot < end)
                scores.append(jnp.where(live, score, MASKED))
                maximum = jnp.maximum(maximum, scores[-1])
            factor = jnp.exp(before - maximum)
            total, weights = total * factor, jnp.zeros((lanes,), jnp.float32)
            for slot, score in enumerate(scores):
                weight = jnp.exp(score - maximum)
                total += weight
                weights = jnp.where(lane_slot == slot, weight, weights)
            values = jnp.where(first + lane_slot < end, value_ref[head, vector].astype(jnp.float32), 0.0)
            return maximum, total, weighted * factor + weights * values

        nothing = jnp.float32(MASKED), jnp.float32(0.0), jnp.zeros((lanes,), jnp.float32)
        steps = lax.div(jnp.maximum(end - start, 0) + each - 1, jnp.int32(each))
        maximum, total, weighted = lax.fori_loop(0, steps, add, nothing)
        sums_ref[place, part, 0], sums_ref[place, part, 1] = maximum, total
        weighted_ref[place, part, :] = weighted

    shapes = [jax.ShapeDtypeStruct((len(query), parts, count), jnp.float32) for count in (lanes, 2)]
    grid = (("query", len(query)), ("part", parts))
    weighted, sums = call(body, query, *flat, lengths, out_type=shapes, grid=grid, interpret=interpret)

    def by_part(found: Array) -> Array:
        return found.reshape(batch, kv_heads, queries, parts, -1).swapaxes(2, 3)

    weighted = weighted.reshape(len(query), parts, each, size).sum(axis=2)
    return merge(by_part(sums[..., :1]), by_part(sums[..., 1:]), by_part(weighted), maximum)
