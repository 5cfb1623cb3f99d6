"""`quantized_matmul` for accelerators: a few rows, where the product takes as long as its weights take to be read.

A program owns a block of outputs: it reads their int8 weights once, widens them to bfloat16, which
is exact, and multiplies all rows with them. No program waits for another.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from gelato_kernels import tuning
from gelato_kernels.compilers import Compiler
from gelato_kernels.quantized.limits import MOST_ROWS

LANES = 128
BLOCK = {"tpu": 1024, "triton": 32}
"""Outputs of a program (assumed: on a TPU enough bytes to hide what a step costs, on a GPU enough programs)."""
BLOCK_BYTES = 2 * 2**20
"""Of weights in a TPU's block; two blocks are in its fast memory at a time, of 16 MiB."""
CHUNK = {"tpu": 1024, "triton": 256}
"""Inputs that are widened at a time: what is widened takes twice the room (assumed)."""


def quantized_matmul(x: Array, weights: Array, scale: Array, *, compiler: Compiler) -> Array:
    """Product [..., out] float32 of x [..., in], rounded to bfloat16, weights int8 [out, in] and scales [out]."""
    out, inputs = weights.shape
    count = x.size // inputs
    if compiler.name == "tpu":
        kernel, rows, block = _tpu, count, _tpu_block(out, inputs)
    else:
        kernel, rows, block = functools.partial(_triton, sizes=(count, out, inputs)), MOST_ROWS, _block(compiler)
    result = compiler.call(
        kernel,
        grid=(pl.cdiv(out, block),),
        in_specs=[
            pl.BlockSpec((rows, inputs), lambda i: (0, 0)),
            pl.BlockSpec((block, inputs), lambda i: (i, 0)),
            pl.BlockSpec((1, block), lambda i: (0, i)),
        ],
        out_specs=pl.BlockSpec((rows, block), lambda i: (0, i)),
        out_shape=jax.ShapeDtypeStruct((count, out), jnp.float32),
        name="quantized_matmul",
    )(x.reshape(count, inputs), weights, scale.astype(jnp.float32)[None])
    return result.reshape(*x.shape[:-1], out)


def _block(compiler: Compiler) -> int:
    return tuning.block("quantized_matmul", BLOCK[compiler.name])


def _tpu_block(out: int, inputs: int) -> int:
    """Outputs of a program: all of them, or a multiple of `LANES` whose weights leave room for two blocks."""
    fits = max(LANES, BLOCK_BYTES // inputs // LANES * LANES)
    return min(out, fits, _block(Compiler(name="tpu")))


def _tpu(x_ref, weights_ref, scale_ref, out_ref) -> None:
    """Multiply x [rows, in], weights [block, in] and scale [1, block] into out [rows, block]."""
    sums = jnp.zeros(out_ref.shape, jnp.float32)
    inputs = x_ref.shape[1]
    for start in range(0, inputs, CHUNK["tpu"]):
        part = slice(start, min(start + CHUNK["tpu"], inputs))
        sums += _product(x_ref[:, part], weights_ref[:, part])
    out_ref[...] = sums * scale_ref[...]


def _triton(x_ref, weights_ref, scale_ref, out_ref, *, sizes: tuple[int, int, int]) -> None:
    """The same in powers of two, as Triton wants all its arrays; what lies beyond `sizes` (rows, out, in) is masked."""
    count, out, inputs = sizes
    rows, block = out_ref.shape
    chunk = CHUNK["triton"]
    first = pl.program_id(0) * block

    def inside(shape: tuple[int, int], axis: int, start: Array | int, end: int) -> Array:
        return start + lax.broadcasted_iota(jnp.int32, shape, axis) < end

    def add(step: Array, sums: Array) -> Array:
        start = step * chunk
        part = (slice(None), pl.ds(start, chunk))
        of_x = inside((rows, chunk), 0, 0, count) & inside((rows, chunk), 1, start, inputs)
        of_weights = inside((block, chunk), 0, first, out) & inside((block, chunk), 1, start, inputs)
        x = triton.load(x_ref.at[part], mask=of_x, other=0)
        return sums + _product(x, triton.load(weights_ref.at[part], mask=of_weights, other=0))

    sums = lax.fori_loop(0, pl.cdiv(inputs, chunk), add, jnp.zeros((rows, block), jnp.float32))
    scale = triton.load(scale_ref.at[...], mask=inside((1, block), 1, first, out), other=0)
    mask = inside((rows, block), 0, 0, count) & inside((rows, block), 1, first, out)
    triton.store(out_ref.at[...], sums * scale, mask=mask)


def _product(x: Array, weights: Array) -> Array:
    """Sums over the last axes of x [rows, in] and weights [block, in] int8, both as bfloat16: [rows, block] float32."""
    return lax.dot_general(
        x.astype(jnp.bfloat16),
        weights.astype(jnp.bfloat16),
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.DEFAULT,  # exact, and a caller's higher setting does not lower
        preferred_element_type=jnp.float32,
    )
