"""Sweeps for Mosaic GPU: a program looks at one block of one row, as a vector, and writes a few scalars."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.blocks import Scale, block_size
from gelato_kernels.sweeps import xla
from gelato_kernels.sweeps.partials import FIELDS, LOWEST, combine
from gelato_kernels.sweeps.records import Statistics, Sweeps
from gelato_kernels.warpgroups import call, read_chunk

_NO_ID = 2**30


def run(op: Callable[..., Any], *arrays: Any, interpret: bool) -> Any:
    """A two-level op over these sweeps."""
    return op(*arrays, sweeps=Sweeps(partial(statistics, interpret=interpret), partial(residual, interpret=interpret)))


def _call(body: Callable[..., None], *arrays: Array, rows: int, vocab: int, outputs: int, interpret: bool) -> Array:
    """A kernel with a program for every block of every row, which writes `outputs` numbers: [parts, rows, outputs]."""
    parts = -(-vocab // block_size(vocab))
    out_type = jax.ShapeDtypeStruct((parts, rows, outputs), jnp.float32)
    return call(body, *arrays, out_type=out_type, grid=(("row", rows), ("part", parts)), interpret=interpret)


def _own(x: Array, own: Array) -> Array:
    """Logits of a part; what another part has, or is -inf, at the lowest."""
    return jnp.maximum(jnp.where(own, x.astype(jnp.float32), LOWEST), LOWEST)


def statistics(logits: Array, temperature: Array | None, *, interpret: bool) -> Statistics:
    """See `Sweeps`."""
    if not logits.size:
        return xla.statistics(logits, temperature)  # a grid has programs
    shape, vocab = logits.shape[:-1], logits.shape[-1]
    rows = logits.reshape(-1, vocab)
    inverse = None if temperature is None else 1.0 / temperature.reshape(-1)

    def body(logits_ref: Any, inverse_ref: Any, out_ref: Any) -> None:
        row, index = lax.axis_index("row"), lax.axis_index("part")
        place, ids, own = read_chunk(index, block_size(vocab), vocab)
        x = _own(logits_ref[row, place], own)
        maximum = jnp.max(x)
        below = x - maximum
        weights = jnp.exp(below)
        best = jnp.min(jnp.where(x == maximum, ids, _NO_ID)).astype(jnp.float32)
        fields = (maximum, jnp.sum(weights), jnp.sum(weights * below), best, jnp.sum(jnp.exp(below * inverse_ref[row])))
        for field, value in enumerate(fields):
            out_ref[index, row, field] = value

    factor = jnp.ones(len(rows)) if inverse is None else inverse
    found = _call(body, rows, factor, rows=len(rows), vocab=vocab, outputs=FIELDS + 1, interpret=interpret)
    seen = combine(found[..., :FIELDS], found[..., FIELDS:], found.shape[0], inverse)
    return jax.tree.map(lambda field: field.reshape(*shape, *field.shape[1:]), seen)


def residual(
    target_logits: Array,
    draft_logits: Array,
    target_scale: Scale,
    draft_scale: Scale,
    needed: Array,
    *,
    interpret: bool,
) -> Array:
    """See `Sweeps`; all rows are swept."""
    if not target_logits.size:
        return xla.residual(target_logits, draft_logits, target_scale, draft_scale, needed)
    rows, vocab = target_logits.shape

    def body(x_ref: Any, y_ref: Any, x_max: Any, x_log: Any, y_max: Any, y_log: Any, out_ref: Any) -> None:
        row, index = lax.axis_index("row"), lax.axis_index("part")
        place, _, own = read_chunk(index, block_size(vocab), vocab)

        def probability(ref: Any, maximum: Any, log_total: Any) -> Array:
            return jnp.exp(_own(ref[row, place], own) - maximum[row] - log_total[row])

        out_ref[index, row, 0] = jnp.sum(
            jnp.maximum(probability(x_ref, x_max, x_log) - probability(y_ref, y_max, y_log), 0.0)
        )

    arrays = (target_logits, draft_logits, *target_scale, *draft_scale)
    return _call(body, *arrays, rows=rows, vocab=vocab, outputs=1, interpret=interpret)[..., 0].T
