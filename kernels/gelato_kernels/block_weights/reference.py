"""`block_matmul` in plain jnp: the same rounding of rows as the compiled kernel, sums in whatever order XLA takes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.block_weights import layout
from gelato_kernels.block_weights.records import GROUP, PANEL, Around, BlockWeights, Format

LARGEST_DIGIT = 16_383
"""Of a rounded row: 15 bits with the sign. The compiled kernel has the same."""
SMALLEST_ROW = 1e-30
"""A row whose numbers all lie below counts as zeros, since the inverse of its step would overflow; likewise."""


def one_layer(weights: BlockWeights, *others: Array | None) -> tuple[Any, ...]:
    """Of a stack the matrix that is meant, and what goes with it of others that are stacked likewise."""
    if weights.layer is None:
        return weights, *others
    layer = jnp.clip(weights.layer, 0, weights.packed.shape[0] - 1)
    take = lambda stack: None if stack is None else lax.dynamic_index_in_dim(stack, layer, keepdims=False)  # noqa: E731
    parts = {name: take(getattr(weights, name)) for name in ("packed", "scales", "minimums")}
    return dataclasses.replace(weights, **parts, layer=None), *map(take, others)


def unpack_blocks(weights: BlockWeights) -> Array:
    """The float32 matrix [out, in]."""
    (weights,) = one_layer(weights)
    groups = weights.packed.shape[1]
    matrix = layout.from_panels(weights).astype(jnp.float32).reshape(-1, groups, GROUP)
    if weights.scales is not None:
        matrix = matrix * layout.of_outputs(weights.scales)[..., None]
    if weights.minimums is not None:
        matrix = matrix + layout.of_outputs(weights.minimums)[..., None]
    return matrix.reshape(-1, groups * GROUP)[: weights.shape[0], : weights.shape[1]]


def unpack_rows(weights: BlockWeights, rows: Array) -> Array:
    """Rows [..., in] float32 of the matrix."""
    (weights,) = one_layer(weights)
    panel, lane = rows // PANEL, rows % PANEL
    matrix = layout.lane_numbers(weights, panel, lane).astype(jnp.float32)
    if weights.scales is not None:
        matrix = matrix * weights.scales[panel, :, lane].astype(jnp.float32)[..., None]
    if weights.minimums is not None:
        matrix = matrix + weights.minimums[panel, :, lane].astype(jnp.float32)[..., None]
    return matrix.reshape(*rows.shape, -1)[..., : weights.shape[1]]


def block_matmul(x: Array, weights: BlockWeights, around: Around) -> Array:
    """Product [..., out] of x [..., in], or of what stands ahead of it, with what stands behind."""
    weights, norm, bias = one_layer(weights, around.norm, around.bias)
    around = dataclasses.replace(around, norm=norm, bias=bias)
    rows, step = _rows(_ahead(x, around), weights.format)
    out = jnp.matmul(rows, unpack_blocks(_behind(weights, rows)).T, precision="highest") * step
    if around.bias is not None:
        out = out + around.bias
    if around.residual is not None:
        out = out + around.residual
    if around.rows is not None:
        out = jnp.where((jnp.arange(out.shape[-2]) < around.rows[..., None])[..., None], out, 0.0)
    return out


def _behind(weights: BlockWeights, rows: Array) -> BlockWeights:
    """The weights, as if the rows changed them: XLA would widen what does not change ahead of a loop, all at once."""
    never = jnp.any(jnp.isinf(rows[..., :1]))  # `_rows` leaves none
    return dataclasses.replace(weights, packed=weights.packed + never.astype(weights.packed.dtype))


def _ahead(x: Array, around: Around) -> Array:
    if around.gated:
        gate, up = jnp.split(x, 2, axis=-1)
        return jax.nn.silu(gate) * up
    if around.norm is not None:
        mean = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * lax.rsqrt(mean + around.epsilon) * around.norm
    return x


def _rows(x: Array, format: Format) -> tuple[Array, Array]:
    """Numbers [..., in] in float32, whole where weights are, and what 1 of them stands for [..., 1].

    That is nan where a row is not finite.
    """
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0)
    finite = jnp.isfinite(largest)
    if format == "bfloat16":
        return jnp.where(finite, x, 0.0), jnp.where(finite, 1.0, jnp.nan)
    none = ~finite | (largest < SMALLEST_ROW)
    digits = jnp.round(x * jnp.where(none, 0.0, LARGEST_DIGIT / largest))
    step = jnp.where(finite, jnp.where(none, 0.0, largest / LARGEST_DIGIT), jnp.nan)
    return jnp.where(none, 0.0, digits), step
