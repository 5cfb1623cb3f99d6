"""`unembed_entropy` for Mosaic GPU: a program computes a block's logits one after another, and keeps their sums."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.blocks import block_size
from gelato_kernels.sweeps.partials import FIELDS, LOWEST, combine
from gelato_kernels.sweeps.records import Statistics
from gelato_kernels.unembedding import two_level
from gelato_kernels.warpgroups import call, chunk_size, row_products

CHUNK = 512
"""Inputs of a vector."""


def unembed_entropy(*arrays: Array | None, interpret: bool) -> tuple[Array | None, ...]:
    """Fields of TokenStats; see the API."""
    return two_level.unembed_entropy(*arrays, sweep=partial(_sweep, interpret=interpret))  # type: ignore[arg-type]


class _Seen(NamedTuple):
    """A row's logits so far, scalars; d = logit - maximum."""

    maximum: Array
    total: Array  # sum of exp(d)
    weighted: Array  # sum of d exp(d)
    argmax: Array  # float32
    tempered: Array  # sum of exp(d / temperature)


def _nothing() -> _Seen:
    return _Seen(*(jnp.float32(value) for value in (LOWEST, 0.0, 0.0, 0.0, 0.0)))


def _add(seen: _Seen, logit: Array, output: Array, inverse: Array) -> _Seen:
    """With one more logit: sums move to the new maximum as parts of a row do when they are combined."""
    maximum = jnp.maximum(seen.maximum, logit)
    fall, below = seen.maximum - maximum, logit - maximum
    factor, weight = jnp.exp(fall), jnp.exp(below)
    # The first logit finds nothing, at the lowest: its fall is no number to multiply with.
    moved = jnp.where(seen.total > 0, factor * (seen.weighted + seen.total * fall), 0.0)
    return _Seen(
        maximum=maximum,
        total=seen.total * factor + weight,
        weighted=moved + weight * below,
        argmax=jnp.where(logit > seen.maximum, output.astype(jnp.float32), seen.argmax),
        tempered=seen.tempered * jnp.exp(fall * inverse) + jnp.exp(below * inverse),
    )


def _sweep(rows: Array, weight: Array, scale: Array | None, inverse: Array | None, *, interpret: bool) -> Statistics:
    vocab, inputs = weight.shape
    size = block_size(vocab)
    parts, chunk = -(-vocab // size), chunk_size(inputs, CHUNK)
    factors = jnp.ones(len(rows)) if inverse is None else inverse
    scales = () if scale is None else (scale,)

    def body(rows_ref: Any, weight_ref: Any, inverse_ref: Any, *refs: Any) -> None:
        *scale_ref, out_ref = refs
        part = lax.axis_index("part")
        first = part * size

        def add(index: Array, seen: tuple[_Seen, ...]) -> tuple[_Seen, ...]:
            output = first + index
            products = row_products(rows_ref, len(rows), weight_ref, output, chunk)
            factor = scale_ref[0][output] if scale_ref else jnp.float32(1.0)
            return tuple(
                _add(before, product * factor, output, inverse_ref[row])
                for row, (before, product) in enumerate(zip(seen, products, strict=True))
            )

        seen = lax.fori_loop(0, jnp.minimum(size, vocab - first), add, (_nothing(),) * len(rows))
        for row, found in enumerate(seen):
            for field, value in enumerate(found):
                out_ref[part, row, field] = value

    out_type = jax.ShapeDtypeStruct((parts, len(rows), FIELDS + 1), jnp.float32)
    arrays = (rows, weight, factors, *scales)
    found = call(body, *arrays, out_type=out_type, grid=(("part", parts),), interpret=interpret)
    return combine(found[..., :FIELDS], found[..., FIELDS:], parts, inverse)
