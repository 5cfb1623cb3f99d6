"""Forms of `quantized_matmul` for XLA's compilers; what a CPU runs fast depends on the number of rows.

Measured on x86-64 (AVX-512, two cores) with [out, in] weights of 576..1536 inputs, against a float32
product of the same shape: one row, weights widened inside the product, 2.5-4.5 times faster; 2 to 16
rows as int8 x int8, 0.9-2 times; widened weights in memory cost 1.1-3 times a float32 product.
"""

import jax.numpy as jnp
from jax import Array, lax

FUSED_BYTES = 16 * 1024
"""XLA's CPU compiler widens weights inside a product whose other operand is a vector smaller than this."""
MANY_ROWS = 128
"""From here on (measured) widening whole weights costs less than multiplying every row twice."""
_PIECE = 127
"""Largest magnitude of an int8 piece; one more step of the second piece is half a step of the first."""


def quantized_matmul(x: Array, weights: Array, scale: Array) -> Array:
    """Product [..., out] of x [..., in], weights int8 [out, in] and scales [out]; int8 is exact in bfloat16."""
    return _contract(x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16), jnp.float32) * scale


def quantized_matmul_cpu(x: Array, weights: Array, scale: Array) -> Array:
    """The same for a CPU."""
    out, inputs = weights.shape
    rows = x.reshape(-1, inputs)
    fuses = len(rows) == 1 and rows.nbytes < FUSED_BYTES
    product = _widened if fuses or len(rows) >= MANY_ROWS else _in_pieces
    return (product(rows, weights) * scale).reshape(*x.shape[:-1], out)


def _widened(x: Array, weights: Array) -> Array:
    """Sums in float32 of x [rows, in] times widened weights [out, in]."""
    # Whatever made x would be fused into a one-row product, and computed again for every output. XLA does not
    # fuse a division that is used again and again, and cannot know that this one is by 1.
    x = x / jnp.where(jnp.isnan(x), x, 1.0)
    # Weights do not change in a decoding loop: XLA would widen them all ahead of it, and read four bytes each.
    weights, x = lax.optimization_barrier((weights, x))
    return jnp.dot(x, weights.astype(jnp.float32).T)  # a product over both last axes would not be fused


def _in_pieces(x: Array, weights: Array) -> Array:
    """The same with x as the sum of two int8 pieces: one product of integers, summed exactly in int32."""
    largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
    step = jnp.where(largest == 0, 1.0, largest / _PIECE)
    coarse = jnp.round(x / step)
    fine = jnp.round((x / step - coarse) * (2 * _PIECE))
    pieces = jnp.concatenate([coarse, fine]).astype(jnp.int8)
    weights, pieces = lax.optimization_barrier((weights, pieces))
    sums = _contract(pieces, weights, jnp.int32).astype(jnp.float32)
    coarse_sums, fine_sums = jnp.split(sums, 2)
    return (coarse_sums + fine_sums / (2 * _PIECE)) * step


def _contract(x: Array, weights: Array, dtype: type) -> Array:
    """Sums of products over the last axis of both."""
    dimensions = (((x.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(x, weights, dimensions, preferred_element_type=dtype)
