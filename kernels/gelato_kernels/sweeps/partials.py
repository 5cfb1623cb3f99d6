"""Partial results of a sweep: what a program finds in its part of a row, and how the parts are put together.

A kernel keeps no state from one program to the next (a TPU runs its grid in order, a GPU in none), so
each program writes what its part would be as a row of its own; a few numbers a part are left to combine.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.sweeps.records import Statistics

LOWEST = -1e30
"""Stands for -inf inside kernels: exp of it is 0, and so is 0 times it (0 * -inf would be nan)."""
FIELDS = 4
"""Numbers of a part before its block sums: maximum, sum of e^d, sum of d e^d, argmax."""
_NO_ID = 2.0**24
"""Above every token id: ids are exact in float32."""


class Part(NamedTuple):
    """A part of rows as a row of its own, d = x - maximum. Ids are float32, exact below 2^24."""

    maximum: Array  # [rows, 1]
    total: Array  # [rows, 1] sum of exp(d)
    weighted: Array  # [rows, 1] sum of d exp(d)
    argmax: Array  # [rows, 1] float32, the lowest id
    weights: Array  # [rows, columns] exp(d), or exp(d / temperature)


def part(logits: Array, ids: Array, vocab: int, inverse_temperature: Array | None) -> Part:
    """The math of one program, on whatever it has in registers.

    Args:
        logits: [rows, columns] floating; columns whose id is `vocab` or more may hold anything.
        ids: [rows, columns] int32.
        vocab: V.
        inverse_temperature: [rows, 1] or None.
    """
    x = jnp.maximum(jnp.where(ids < vocab, logits.astype(jnp.float32), LOWEST), LOWEST)
    maximum = jnp.max(x, axis=1, keepdims=True)
    below = x - maximum
    weights = jnp.exp(below)
    best = jnp.min(jnp.where(x == maximum, ids.astype(jnp.float32), _NO_ID), axis=1, keepdims=True)
    total = jnp.sum(weights, axis=1, keepdims=True)
    weighted = jnp.sum(weights * below, axis=1, keepdims=True)
    if inverse_temperature is not None:
        weights = jnp.exp(below * inverse_temperature)
    # A part with nothing but -inf counts as ones here; its maximum takes that away when parts are combined.
    return Part(maximum, total, weighted, best, weights)


def pack(found: Part, lanes: int) -> Array:
    """The first `FIELDS` of a part side by side, [rows, lanes]."""
    lane = lax.broadcasted_iota(jnp.int32, (found.maximum.shape[0], lanes), 1)
    packed = jnp.zeros(lane.shape, jnp.float32)
    for index, field in enumerate(found[:FIELDS]):
        packed = jnp.where(lane == index, field, packed)
    return packed


def combine(fields: Array, part_sums: Array, blocks: int, inverse_temperature: Array | None) -> Statistics:
    """Statistics of rows from their parts.

    Args:
        fields: [parts, rows, at least FIELDS].
        part_sums: [parts, rows, blocks of a part] block sums relative to each part's maximum.
        blocks: blocks of a row; what the last part has beyond them is dropped.
        inverse_temperature: [rows] of the block sums, or None.
    """
    part_max, totals, weighted, best = (fields[..., index] for index in range(FIELDS))
    maximum = jnp.max(part_max, axis=0)
    below = part_max - maximum
    scale = jnp.exp(below)
    total = jnp.sum(totals * scale, axis=0)
    # Where the scale is 0 the part is -inf throughout, or so low that nothing of it counts.
    moved = jnp.where(scale > 0, scale * (weighted + totals * below), 0.0)
    argmax = jnp.min(jnp.where(part_max == maximum, best, _NO_ID), axis=0).astype(jnp.int32)
    block_scale = scale if inverse_temperature is None else jnp.exp(below * inverse_temperature)
    sums = (part_sums * block_scale[..., None]).transpose(1, 0, 2)
    return Statistics(maximum, total, jnp.sum(moved, axis=0), argmax, sums.reshape(sums.shape[0], -1)[:, :blocks])
