"""`quantized_matmul` for Mosaic GPU: a program multiplies all rows with each of a few weight rows, in float32."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.warpgroups import call, chunk_size, row_products

OUTPUTS = 8
"""Of a program (assumed: a head of 49,152 outputs is 6,144 programs)."""
CHUNK = 512
"""Inputs of a vector: four int8 numbers a thread."""


def quantized_matmul(x: Array, weights: Array, scale: Array, *, interpret: bool) -> Array:
    """Product [..., out] float32 of x [..., in], weights int8 [out, in] and scales [out]; nothing is rounded ahead."""
    out, inputs = weights.shape
    rows = x.reshape(-1, inputs)
    chunk = chunk_size(inputs, CHUNK)

    def body(rows_ref: Any, weights_ref: Any, scale_ref: Any, out_ref: Any) -> None:
        first = lax.axis_index("block") * OUTPUTS

        def multiply(index: Array, _: Array) -> Array:
            output = jnp.minimum(first + index, out - 1)  # after the last it is computed again
            for row, total in enumerate(row_products(rows_ref, len(rows), weights_ref, output, chunk)):
                out_ref[row, output] = total * scale_ref[output]
            return _

        lax.fori_loop(0, OUTPUTS, multiply, jnp.int32(0))

    result = call(
        body,
        rows,
        weights,
        scale.astype(jnp.float32),
        out_type=jax.ShapeDtypeStruct((len(rows), out), jnp.float32),
        grid=(("block", -(-out // OUTPUTS)),),
        interpret=interpret,
    )
    return result.reshape(*x.shape[:-1], out)
