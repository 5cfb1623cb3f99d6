"""`BlockWeights`, what the products read, and what may stand around a product."""

import functools
from dataclasses import dataclass
from typing import Literal

import jax
from jax import Array

GROUP = 32
"""Inputs that share a scale."""
PANEL = 16
"""Outputs that lie side by side: a vector's lanes."""

Format = Literal["q4", "q8", "bfloat16"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("packed", "scales", "minimums", "layer"),
    meta_fields=("format", "shape"),
)
@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """A matrix [out, in] in panels of 16 outputs and groups of 32 inputs; zeros fill the last of each.

    Of a group, `q4` keeps 4-bit numbers q with q * scale + minimum for the weights (GGUF's Q4_1; Q4_0 with -8 scales
    for the minimum), `q8` int8 numbers with q * scale (Q8_0), `bfloat16` the weights themselves.

    Attributes:
        packed: uint8 [panels, groups, 256] of q4, int8 [panels, groups, 512] of q8, uint16 [panels, groups, 512] of
            bfloat16: their bits, since XLA widens bfloat16 ahead of a loop on a CPU. A group of bfloat16 holds 32
            inputs, each for 16 outputs; of q8 16 pairs of inputs, each for 16 outputs. A q4 group holds four parts of
            8 inputs, each for 16 outputs 4 bytes: inputs 0, 2, 4, 6, then 1, 3, 5, 7, four bits each from the lowest.
        scales: float16 [panels, groups, 16], None of bfloat16.
        minimums: the same of q4, None of others.
        format: `q4`, `q8` or `bfloat16`.
        shape: (out, in) of the matrix.
        layer: int32 [], or None. With it all arrays have a leading axis and this is the matrix of it that is meant: a
            stack is read in place, where XLA would copy a slice.
    """

    packed: Array
    scales: Array | None
    minimums: Array | None
    format: Format
    shape: tuple[int, int]
    layer: Array | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("rows", "norm", "bias", "residual"),
    meta_fields=("epsilon", "gated"),
)
@dataclass(frozen=True, kw_only=True)
class Around:
    """What stands ahead of a product, and behind it.

    Attributes:
        rows: int32 [...] of each window that count, or None for all.
        norm: float32 [in] scale of the RMS norm ahead, or None; [layers, in] where the weights are a stack.
        bias: float32 [out] or None; [layers, out] likewise.
        residual: float32 [..., out] or None.
        epsilon: of the norm.
        gated: x is [..., 2 * in]; its first half goes through silu and multiplies the second.
    """

    rows: Array | None
    norm: Array | None
    bias: Array | None
    residual: Array | None
    epsilon: float
    gated: bool
