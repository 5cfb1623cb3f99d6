"""`quantize_rows` and `quantized_matmul`: 8-bit weights with one scale per output."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect
from gelato_kernels.compilers import pallas_backends
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.quantized import limits, reference, xla
from gelato_kernels.warpgroups import mosaic_backends

BACKENDS = (
    *pallas_backends("gelato_kernels.quantized.pallas", "quantized_matmul", limits.refuses),
    *mosaic_backends("gelato_kernels.quantized.mosaic", "quantized_matmul", limits.refuses_mosaic),
    Backend("cpu", xla.quantized_matmul_cpu, platforms=("cpu",)),
    Backend("xla", xla.quantized_matmul),
    Backend("reference", reference.quantized_matmul),
)

LARGEST = 127
"""Of the integers: -128 stays unused, so that the scale is symmetric."""


def quantize_rows(weights: ArrayLike) -> tuple[Array, Array]:
    """Round each row to whole multiples of 1/127 of its largest magnitude.

    A smaller scale, which clips the largest weights, has a larger squared error on every matrix of
    SmolLM2-135M: at 8 bits the step is fine enough that clipping costs more than it saves.

    Args:
        weights: [out, in] finite floating.

    Returns:
        int8 [out, in] and float32 scales [out] with `weights` close to their product; a row of zeros has scale 1.

    Raises:
        ValueError: wrong shape or dtype.
        NotImplementedError: if differentiated.
    """
    weights = expect("quantize_rows", "weights", weights, "floating", (None, None), "[out, in]").astype(jnp.float32)
    largest = jnp.max(jnp.abs(weights), axis=1)
    scale = jnp.where(largest > 0, largest / LARGEST, 1.0)
    return jnp.round(weights / scale[:, None]).astype(jnp.int8), scale


def quantized_matmul(x: ArrayLike, weights: ArrayLike, scale: ArrayLike, *, implementation: str | None = None) -> Array:
    """`x @ (scale[:, None] * weights).T`, reading one byte a weight.

    Args:
        x: [..., in] finite floating.
        weights: [out, in] int8, of which `quantize_rows` makes -127..127.
        scale: [out] floating.
        implementation: `pallas_tpu` and `pallas_triton` (what a TPU and a GPU get for 1 to 16 rows), `cpu` (what a
            CPU gets), `xla` (all else), `reference` or None; `pallas_tpu_interpret` and `pallas_triton_interpret` run
            the kernels as XLA code. `cpu` takes one row, and 128 or more, in float32, and a few rows as sums of two
            int8 pieces, within 1/64,516 of the row's largest magnitude; `xla` and the kernels round x to bfloat16, as
            bfloat16 weights would.

    Returns:
        [..., out] float32; sums are float32, or exact.

    Raises:
        ValueError: wrong shape or dtype, an unknown implementation, or one that does not serve this many rows.
        NotImplementedError: if differentiated.
    """
    op = "quantized_matmul"
    weights = expect(op, "weights", weights, "integer", (None, None), "[out, in]")
    if weights.dtype != jnp.int8:
        raise ValueError(f"{op}: weights has dtype {weights.dtype}, expected int8")
    out, inputs = weights.shape
    scale = expect(op, "scale", scale, "floating", (out,), "[out] of weights")
    x = expect(op, "x", x, "floating", None, "[..., in]")
    if x.shape[-1:] != (inputs,):
        raise ValueError(f"{op}: x has shape {x.shape}, expected (..., {inputs}) = [..., in] of weights")
    return dispatch(op, BACKENDS, implementation, x, weights, scale)
