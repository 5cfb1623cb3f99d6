"""`block_matmul` and the weights that it reads: 4 or 8 bits, groups of 32 with a scale, or bfloat16."""

import dataclasses
from typing import get_args

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels import native as compiled
from gelato_kernels.block_weights import layout, native, reference
from gelato_kernels.block_weights.records import GROUP, Around, BlockWeights, Format
from gelato_kernels.checks import expect
from gelato_kernels.dispatch import Backend, dispatch

BACKENDS = (
    Backend("native", native.block_matmul, platforms=("cpu",), lacks=compiled.reason, narrow=True),
    Backend("reference", reference.block_matmul, narrow=True),
)

FORMATS: tuple[Format, ...] = get_args(Format)
LARGEST = {"q4": 15, "q8": 127}
"""Of the whole numbers; q4's begin at 0, q8's at the negative."""


def pack_blocks(q: ArrayLike, scale: ArrayLike, minimum: ArrayLike | None = None) -> BlockWeights:
    """Arrange weights that are rounded already, as a file holds them: q * scale + minimum, group by group.

    Args:
        q: [out, in]: integers 0 to 15 (`q4`) where a minimum is given, int8 (`q8`) where none is.
        scale: [out, in / 32] (rounded up) floating, or [out, 1] for one of every output; kept as float16, in which GGUF
            has it, and rounded to that if it is not.
        minimum: like `scale`, or None. Of GGUF's Q4_0 it is -8 * scale.

    Returns:
        The weights; nothing is lost.

    Raises:
        ValueError: wrong shape or dtype.
        NotImplementedError: if differentiated.
    """
    op = "pack_blocks"
    q = expect(op, "q", q, "integer", (None, None), "[out, in]")
    if minimum is None and q.dtype != jnp.int8:
        raise ValueError(f"{op}: q has dtype {q.dtype} and there is no minimum, expected int8")
    out, inputs = q.shape
    groups = -(-inputs // GROUP)
    format: Format = "q8" if minimum is None else "q4"

    def grouped(name: str, numbers: ArrayLike) -> Array:
        numbers = expect(op, name, numbers, "floating", (out, None), "[out, in / 32] or [out, 1]")
        if numbers.shape[1] not in (1, groups):
            raise ValueError(f"{op}: {name} has shape {numbers.shape}, expected ({out}, {groups}) or ({out}, 1)")
        return layout.group_numbers(jnp.broadcast_to(numbers, (out, groups)))

    return BlockWeights(
        packed=layout.to_panels(q, format),
        scales=grouped("scale", scale),
        minimums=None if minimum is None else grouped("minimum", minimum),
        format=format,
        shape=(out, inputs),
    )


def quantize_blocks(weights: ArrayLike, format: Format = "q4") -> BlockWeights:
    """Round a matrix: each group of 32 inputs spans its own range in 16 (`q4`) or 255 (`q8`) even steps.

    Args:
        weights: [out, in] finite floating, below 65,504 in magnitude.
        format: `q4`, `q8`, or `bfloat16`: each weight is the nearest of that type.

    Returns:
        Weights within half a step of the given, up to the rounding of scales and minimums to float16.

    Raises:
        ValueError: wrong shape or dtype, or no such format.
        NotImplementedError: if differentiated.
    """
    op = "quantize_blocks"
    if format not in FORMATS:
        raise ValueError(f"{op}: no format {format!r}, there are {', '.join(FORMATS)}")
    weights = expect(op, "weights", weights, "floating", (None, None), "[out, in]").astype(jnp.float32)
    out, inputs = weights.shape
    if format == "bfloat16":
        packed = layout.to_panels(weights, format)
        return BlockWeights(packed=packed, scales=None, minimums=None, format=format, shape=(out, inputs))
    # A last group that is cut short takes its range from what is there.
    groups = jnp.pad(weights, ((0, 0), (0, -inputs % GROUP)), mode="edge" if inputs else "constant")
    groups = groups.reshape(out, -(-inputs // GROUP), GROUP)
    most = LARGEST[format]
    if format == "q8":
        minimum = None
        scale = (jnp.max(jnp.abs(groups), axis=-1) / most).astype(jnp.float16)
        steps, least, kind = groups, -most, jnp.int8
    else:
        minimum = jnp.min(groups, axis=-1).astype(jnp.float16)
        steps = groups - minimum[..., None].astype(jnp.float32)
        scale = (jnp.max(steps, axis=-1) / most).astype(jnp.float16)
        least, kind = 0, jnp.uint8
    divisor = jnp.where(scale == 0, 1.0, scale.astype(jnp.float32))
    q = jnp.clip(jnp.round(steps / divisor[..., None]), least, most).astype(kind)
    return pack_blocks(q.reshape(out, -1)[:, :inputs], scale, minimum)


def unpack_blocks(weights: BlockWeights) -> Array:
    """The float32 matrix [out, in] that the weights stand for; of a stack, that of its layer."""
    return reference.unpack_blocks(_checked("unpack_blocks", weights))


def _checked(op: str, weights: BlockWeights) -> BlockWeights:
    """Refuses a stack without a layer, and a layer of no stack: the compiled kernel would read beside the weights."""
    axes = 3 if weights.layer is None else 4
    for name in ("packed", "scales", "minimums"):
        array = getattr(weights, name)
        if array is not None and array.ndim != axes:
            stack = "no layer, expected [panels" if weights.layer is None else "a layer, expected [layers, panels"
            raise ValueError(f"{op}: weights.{name} has shape {array.shape} and there is {stack}, groups, ...]")
    if weights.layer is None:
        return weights
    layer = expect(op, "weights.layer", weights.layer, "integer", (), "[]").astype(jnp.int32)
    return dataclasses.replace(weights, layer=layer)


def unpack_rows(weights: BlockWeights, rows: ArrayLike) -> Array:
    """Some outputs' weights, `unpack_blocks(weights)[rows]`: an embedding that is looked up where it is packed.

    Args:
        weights: of `pack_blocks` or `quantize_blocks`.
        rows: [...] integer; clipped to 0 and out - 1.

    Returns:
        [..., in] float32.

    Raises:
        ValueError: rows are no integers.
        NotImplementedError: if differentiated.
    """
    rows = expect("unpack_rows", "rows", rows, "integer", None, "[...]")
    return reference.unpack_rows(_checked("unpack_rows", weights), jnp.clip(rows, 0, weights.shape[0] - 1))


def block_matmul(
    x: ArrayLike,
    weights: BlockWeights,
    *,
    rows: ArrayLike | None = None,
    norm: tuple[ArrayLike, float] | None = None,
    gated: bool = False,
    bias: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    implementation: str | None = None,
) -> Array:
    """`x @ unpack_blocks(weights).T`, with what a decoder has ahead of the product and behind it in the same call.

    Rows are rounded to 15-bit whole numbers, each with its own step, or stay float32 for bfloat16 weights. By `native`
    the sums of a group are exact, and those of a row's groups (its products, of bfloat16) in one order: a row's result
    has the same bits alone, in any window and in any batch.

    Args:
        x: [..., in] floating, or [..., 2 * in] if gated; used as float32. A row that holds nan or infinity becomes nan.
        weights: of `pack_blocks` or `quantize_blocks`; or a stack of such, and its `layer`.
        rows: [] or [...] integer, one for each window: of the second to last axis of x, [..., rows, in], only so many
            count; others are skipped, their results zero.
        norm: (scale [in], epsilon): x * rsqrt(mean(x^2) + epsilon) * scale is multiplied (arXiv 1910.07467, eq. 4).
            Of a stack [layers, in], and likewise `bias`.
        gated: silu(first half of x) * second half is multiplied (arXiv 2002.05202, equation 6); not with `norm`.
        bias: [out] floating, added.
        residual: [..., out] floating, added last.
        implementation: `native` (what a CPU gets where there is a C++ compiler), `reference` (all else) or None.

    Returns:
        [..., out] float32.

    Raises:
        ValueError: wrong shape or dtype, `norm` and `gated` at once, an implementation that is unknown or not there.
        NotImplementedError: if differentiated.
    """
    op = "block_matmul"
    out, inputs = weights.shape
    x = expect(op, "x", x, "floating", None, "[..., in]").astype(jnp.float32)
    width = 2 * inputs if gated else inputs
    if x.shape[-1:] != (width,):
        raise ValueError(f"{op}: x has shape {x.shape}, expected (..., {width}) of weights {weights.shape}")
    if gated and norm is not None:
        raise ValueError(f"{op}: norm and gated are both given, expected one")
    if rows is not None:
        if x.ndim < 2:
            raise ValueError(f"{op}: rows is given and x has shape {x.shape}, expected an axis of rows")
        windows = x.shape[:-2] if np.ndim(rows) else ()
        rows = expect(op, "rows", rows, "integer", windows, "[] or [...] of x").astype(jnp.int32)
        rows = jnp.broadcast_to(rows, x.shape[:-2])

    def floats(name: str, given: ArrayLike | None, shape: tuple[int, ...], letters: str) -> Array | None:
        return None if given is None else expect(op, name, given, "floating", shape, letters).astype(jnp.float32)

    weights = _checked(op, weights)
    stacked = () if weights.layer is None else weights.packed.shape[:1]
    around = Around(
        rows=rows,
        norm=floats("norm", norm and norm[0], (*stacked, inputs), "[in] of weights"),
        bias=floats("bias", bias, (*stacked, out), "[out] of weights"),
        residual=floats("residual", residual, (*x.shape[:-1], out), "[..., out]"),
        epsilon=float(norm[1]) if norm else 0.0,
        gated=gated,
    )
    return dispatch(op, BACKENDS, implementation, x, weights, around)
