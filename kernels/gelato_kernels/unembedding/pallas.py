"""`unembed_entropy` as a Pallas kernel: a program reads a block of the head's rows and leaves its part of a sweep."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gelato_kernels import tuning
from gelato_kernels.blocks import block_size
from gelato_kernels.compilers import Compiler, pad_axis
from gelato_kernels.sweeps.pallas import block_sums
from gelato_kernels.sweeps.partials import FIELDS, combine, pack, part
from gelato_kernels.sweeps.records import Statistics
from gelato_kernels.unembedding import two_level
from gelato_kernels.unembedding.two_level import dot

BLOCK_BYTES = 2 * 2**20
"""Of a block of weights on a TPU, assumed: long enough a transfer, and two of them fit in any chip's VMEM."""
_CHUNK = 64  # inputs of a step of Triton's product: a power of two, as all its arrays must be
_GPU_ROWS = 16  # of a product on a GPU's matrix units
_SHORTEST = 16  # outputs of one


class _Cut(NamedTuple):
    """How the product is cut into programs."""

    height: int  # rows of a program
    width: int  # outputs of a program
    size: int  # outputs of a block of the draw's layout
    grid: tuple[int, int]  # programs along rows, along outputs


def _cut(rows: int, weight: Array, compiler: Compiler) -> _Cut:
    vocab, inputs = weight.shape
    size = block_size(vocab)
    if compiler.name == "triton":
        size = width = max(_SHORTEST, pl.next_power_of_2(size))
        height = _GPU_ROWS
    else:
        height, width = rows, size
        widest = tuning.block("unembed_entropy", BLOCK_BYTES // (inputs * weight.dtype.itemsize))
        while size < vocab and 2 * width <= widest:
            width *= 2
    return _Cut(height, width, size, (-(-rows // height), -(-vocab // width)))


def unembed_entropy(*arrays: Array | None, compiler: Compiler) -> tuple[Array | None, ...]:
    """Fields of TokenStats; see the API."""
    return two_level.unembed_entropy(*arrays, sweep=partial(_sweep, compiler=compiler))  # type: ignore[arg-type]


def _sweep(rows: Array, weight: Array, scale: Array | None, inverse: Array | None, *, compiler: Compiler) -> Statistics:
    """Statistics of the rows' logits; `inverse` [R] is that of their temperatures."""
    vocab, inputs = weight.shape
    height, width, size, grid = cut = _cut(len(rows), weight, compiler)
    wanted = grid[0] * height
    operands = [pad_axis(rows, 0, height), weight]
    specs = [pl.BlockSpec((height, inputs), lambda i, j: (i, 0)), pl.BlockSpec((width, inputs), lambda i, j: (j, 0))]
    if scale is not None:
        operands.append(scale[None])
        specs.append(pl.BlockSpec((1, width), lambda i, j: (0, j)))
    if inverse is not None:
        operands.append(pad_axis(inverse[:, None], 0, height))
        specs.append(pl.BlockSpec((height, 1), lambda i, j: (i, 0)))

    def kernel(rows_ref: Any, weight_ref: Any, *refs: Any) -> None:
        *optional, fields_ref, sums_ref = refs
        ids = pl.program_id(1) * width + lax.broadcasted_iota(jnp.int32, (height, width), 1)
        logits = _product(rows_ref, weight_ref, cut, vocab, compiler)
        if scale is not None:
            logits = logits * _load_scale(optional[0], vocab, compiler)
        found = part(logits, ids, vocab, optional[-1][...] if inverse is not None else None)
        fields_ref[0] = pack(found, compiler.lanes)
        sums_ref[0] = block_sums(found.weights, size, compiler)

    counts = (compiler.lanes, width // size)
    packed, sums = compiler.call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=[pl.BlockSpec((1, height, count), lambda i, j: (j, i, 0)) for count in counts],
        out_shape=[jax.ShapeDtypeStruct((grid[1], wanted, count), jnp.float32) for count in counts],
        name="unembed_statistics",
    )(*operands)
    kept = slice(0, len(rows))
    return combine(packed[:, kept, :FIELDS], sums[:, kept], -(-vocab // size), inverse)


def _product(rows_ref: Any, weight_ref: Any, cut: _Cut, vocab: int, compiler: Compiler) -> Array:
    """Logits [height, width] of a program, without scales."""
    inputs = rows_ref.shape[1]
    if compiler.name == "tpu":
        return dot(rows_ref[...], weight_ref[...])
    first = pl.program_id(1) * cut.width
    there = first + lax.broadcasted_iota(jnp.int32, (cut.width, _CHUNK), 0) < vocab

    def step(index: Array, total: Array) -> Array:
        chunk = pl.ds(index * _CHUNK, _CHUNK)

        def load(ref: Any, height: int, mask: Array | bool) -> Array:
            inside = index * _CHUNK + lax.broadcasted_iota(jnp.int32, (height, _CHUNK), 1) < inputs
            return triton.load(ref.at[:, chunk], mask=inside & mask, other=0)

        return total + dot(load(rows_ref, cut.height, True), load(weight_ref, cut.width, there))

    return lax.fori_loop(0, -(-inputs // _CHUNK), step, jnp.zeros((cut.height, cut.width), jnp.float32))


def _load_scale(ref: Any, vocab: int, compiler: Compiler) -> Array:
    """Scales [1, width] of a program's outputs."""
    if compiler.name == "tpu":
        return ref[...]
    ids = pl.program_id(1) * ref.shape[1] + lax.broadcasted_iota(jnp.int32, ref.shape, 1)
    return triton.load(ref.at[:, :], mask=ids < vocab, other=0.0)
