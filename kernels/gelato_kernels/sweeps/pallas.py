"""Sweeps as Pallas kernels, one source for a TPU, for a GPU through Triton and for the interpreter.

The grid is (row blocks, vocabulary blocks), and no program knows of another: a single row is spread
over a whole GPU, and every logit is read once, in the dtype it has.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gelato_kernels import tuning
from gelato_kernels.blocks import Scale, block_size
from gelato_kernels.compilers import Compiler
from gelato_kernels.sweeps import xla
from gelato_kernels.sweeps.partials import FIELDS, LOWEST, combine, pack, part
from gelato_kernels.sweeps.records import Statistics, Sweeps

ROWS = 8
"""Rows of a program on a TPU: the sublanes of a float32 register. A GPU's program has one row."""
COLUMNS = 2048
"""Of a program, assumed: 64 KiB of eight float32 rows on a TPU; Triton compiles slowly above 4096."""


def run(op: Callable[..., Any], *arrays: Any, compiler: Compiler) -> Any:
    """A two-level op over these sweeps."""
    return op(*arrays, sweeps=Sweeps(partial(statistics, compiler=compiler), partial(residual, compiler=compiler)))


class Tiles(NamedTuple):
    """How rows are cut into programs."""

    height: int  # rows of a program
    width: int  # columns of a program: whole blocks of the draw's layout, a power of two for Triton
    size: int  # columns of a block
    grid: tuple[int, int]  # programs along rows, and along a row


def tiles(rows: int, vocab: int, compiler: Compiler) -> Tiles:
    """The cut of [rows, vocab] for a compiler."""
    height = min(ROWS, rows) if compiler.name == "tpu" else 1
    size = block_size(vocab)
    if size == vocab:
        size = width = vocab if compiler.name == "tpu" else pl.next_power_of_2(vocab)
    else:
        width = min(max(tuning.block("sweep", COLUMNS), size), pl.next_power_of_2(vocab))
    return Tiles(height, width, size, (-(-rows // height), -(-vocab // width)))


def load(ref: Any, ids: Array, vocab: int, compiler: Compiler) -> Array:
    """A program's block of rows, [rows, columns]. Past the end of a row stands anything."""
    if compiler.name == "tpu":
        return ref[...]  # a block that falls short is padded
    return triton.load(ref.at[:, :], mask=ids < vocab, other=0.0)


def block_sums(weights: Array, size: int, compiler: Compiler) -> Array:
    """Sums over blocks of `size` columns, [rows, columns / size]."""
    rows, width = weights.shape
    if compiler.name == "triton":
        return jnp.sum(weights.reshape(rows, width // size, size), axis=-1)
    lane = lax.broadcasted_iota(jnp.int32, (rows, width // size), 1)
    sums = jnp.zeros(lane.shape, jnp.float32)
    for index in range(width // size):
        block = weights[:, index * size : (index + 1) * size]
        sums = jnp.where(lane == index, jnp.sum(block, axis=1, keepdims=True), sums)
    return sums


def statistics(logits: Array, temperature: Array | None, *, compiler: Compiler) -> Statistics:
    """See `Sweeps`."""
    if not logits.size:
        return xla.statistics(logits, temperature)  # a grid has programs
    shape, vocab = logits.shape[:-1], logits.shape[-1]
    rows = logits.reshape(-1, vocab)
    inverse = None if temperature is None else 1.0 / temperature.reshape(-1)
    _, width, size, grid = cut = tiles(len(rows), vocab, compiler)

    def kernel(logits_ref: Any, *refs: Any) -> None:
        *inverse_ref, fields_ref, sums_ref = refs
        ids = _ids(cut)
        x = load(logits_ref, ids, vocab, compiler)
        found = part(x, ids, vocab, inverse_ref[0][...] if inverse_ref else None)
        fields_ref[0] = pack(found, compiler.lanes)
        sums_ref[0] = block_sums(found.weights, size, compiler)

    fields, sums = compiler.call(
        kernel,
        grid=grid,
        in_specs=[_row_block(cut), *([] if inverse is None else [_scalars(cut)])],
        out_specs=[_parts(cut, compiler.lanes), _parts(cut, width // size)],
        out_shape=[
            jax.ShapeDtypeStruct((grid[1], len(rows), count), jnp.float32) for count in (compiler.lanes, width // size)
        ],
        name="row_statistics",
    )(rows, *([] if inverse is None else [inverse[:, None]]))
    found = combine(fields[..., :FIELDS], sums, -(-vocab // size), inverse)
    return jax.tree.map(lambda field: field.reshape(*shape, *field.shape[1:]), found)


def residual(
    target_logits: Array,
    draft_logits: Array,
    target_scale: Scale,
    draft_scale: Scale,
    needed: Array,
    *,
    compiler: Compiler,
) -> Array:
    """See `Sweeps`; all rows are swept."""
    if not target_logits.size:
        return xla.residual(target_logits, draft_logits, target_scale, draft_scale, needed)
    rows, vocab = target_logits.shape
    _, width, size, grid = cut = tiles(rows, vocab, compiler)

    def kernel(x_ref: Any, y_ref: Any, x_max: Any, x_log: Any, y_max: Any, y_log: Any, out: Any) -> None:
        ids = _ids(cut)

        def probability(ref: Any, maximum: Any, log_total: Any) -> Array:
            x = jnp.maximum(jnp.where(ids < vocab, load(ref, ids, vocab, compiler).astype(jnp.float32), LOWEST), LOWEST)
            return jnp.exp(x - maximum[...] - log_total[...])

        out[0] = block_sums(
            jnp.maximum(probability(x_ref, x_max, x_log) - probability(y_ref, y_max, y_log), 0.0), size, compiler
        )

    scalars = (*target_scale, *draft_scale)
    masses = compiler.call(
        kernel,
        grid=grid,
        in_specs=[_row_block(cut), _row_block(cut), *[_scalars(cut)] * len(scalars)],
        out_specs=_parts(cut, width // size),
        out_shape=jax.ShapeDtypeStruct((grid[1], rows, width // size), jnp.float32),
        name="residual_masses",
    )(target_logits, draft_logits, *(scalar[:, None] for scalar in scalars))
    return masses.transpose(1, 0, 2).reshape(rows, -1)[:, : -(-vocab // size)]


def _ids(cut: Tiles) -> Array:
    """Token ids of a program's columns, [height, width]."""
    return pl.program_id(1) * cut.width + lax.broadcasted_iota(jnp.int32, (cut.height, cut.width), 1)


def _row_block(cut: Tiles) -> pl.BlockSpec:
    """A program's part of rows [R, V]."""
    return pl.BlockSpec((cut.height, cut.width), lambda i, j: (i, j))


def _scalars(cut: Tiles) -> pl.BlockSpec:
    """One number a row, [R, 1]."""
    return pl.BlockSpec((cut.height, 1), lambda i, j: (i, 0))


def _parts(cut: Tiles, count: int) -> pl.BlockSpec:
    """What a program finds, [parts, R, count]."""
    return pl.BlockSpec((1, cut.height, count), lambda i, j: (j, i, 0))
