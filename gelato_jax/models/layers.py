"""The pieces of a decoder: RMS norm, linear, head, embedding, gated MLP, rotary embedding.

Numbers: the residual stream, norms and sums are float32 whatever the weights are; a product takes
its input in the weights' dtype (float32 for 8-bit weights; for those in blocks whole numbers of 15 bits, float32 where
they are bfloat16) and accumulates in float32.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

import gelato_kernels
from gelato_jax.config import BlockFormat, ModelConfig, RopeScaling, WeightFormat


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Array, kernel: Array, axis: int) -> Array:
    """`x [..., in]` float32 times a matrix whose `axis` is `in`: `[..., out]` float32.

    Both directions multiply in the kernel's dtype and sum in float32. (Plain differentiation would
    multiply the float32 cotangent with bfloat16 operands: a float32 product.) The gradient of `x` is
    float32, that of the kernel has the kernel's dtype.
    """
    return _contract(x.astype(kernel.dtype), kernel, x.ndim - 1, axis)


def _product_forward(x: Array, kernel: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    narrow = x.astype(kernel.dtype)
    return _contract(narrow, kernel, x.ndim - 1, axis), (narrow, kernel)


def _product_backward(axis: int, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    narrow, kernel = kept
    cotangent = cotangent.astype(kernel.dtype)
    x_gradient = _contract(cotangent, kernel, cotangent.ndim - 1, 1 - axis)
    rows, out_rows = narrow.reshape(-1, narrow.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    first, second = (rows, out_rows) if axis == 0 else (out_rows, rows)
    return x_gradient, _contract(first, second, 0, 0).astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def _contract(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    """Sum of products along one axis of each, in float32."""
    dimensions = (((left_axis,), (right_axis,)), ((), ()))
    return lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a scale, in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((size,)))
        self.eps = eps

    def __call__(self, x: Array, layer: Array | None = None) -> Array:
        """Normalise the last axis of `x [..., size]` float32; by the scale of a layer where it is a stack of such."""
        scale = self.scale[...] if layer is None else self.scale[...][layer]
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean_square + self.eps) * scale.astype(jnp.float32)


class Linear(nnx.Module):
    """`x @ kernel (+ bias)`, kernel `[in, out]`: the layout that float32 windows want on a CPU.

    With 8-bit weights the kernel is int8 `[out, in]`, with a `kernel_scale [out]`; in blocks it is what
    `gelato_kernels.BlockWeights` packs, of few bits with a `kernel_scale` and, of 4, a `kernel_minimum`.
    """

    def __init__(self, inputs: int, outputs: int, config: ModelConfig, *, bias: bool = False, rngs: nnx.Rngs | None):
        kept = _matrices(rngs, inputs, outputs, config.weight_format, outputs_first=False)
        self.kernel, self.kernel_scale, self.kernel_minimum = kept
        self.bias = nnx.Param(jnp.zeros((outputs,))) if bias else None
        self.blocks = (config.block_format, (outputs, inputs)) if config.block_format else None

    def __call__(
        self,
        x: Array,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        residual: Array | None = None,
        valid: Array | None = None,
        layer: Array | None = None,
    ) -> Array:
        """Map `x [..., in]` float32 to `[..., out]` float32.

        Args:
            x: the inputs; `[..., 2 * in]` if gated.
            norm: applied to them first.
            gated: what is multiplied is silu of their first half times their second (arXiv 2002.05202).
            residual: `[..., out]`, added last.
            valid: `[B]` tokens of each window that count; weights in blocks save the others, whose results are zero.
            layer: of weights that are a stack, norm and bias among them: which is meant, `[]` int32.
        """
        if self.blocks is not None:
            weights = _blocks(self.kernel, self.kernel_scale, self.kernel_minimum, *self.blocks, layer)
            bias = None if self.bias is None else self.bias[...]
            return _block_matmul(x, weights, norm, gated=gated, bias=bias, residual=residual, rows=valid)
        if norm is not None:
            x = norm(x)
        if gated:
            gate, up = jnp.split(x, 2, axis=-1)
            x = jax.nn.silu(gate) * up
        y = _product(x, self.kernel, self.kernel_scale, 0)
        y = y if self.bias is None else y + self.bias[...].astype(jnp.float32)
        return y if residual is None else residual + y


class Head(nnx.Module):
    """Output head, kernel `[U, D]`: the embedding's layout, so that tied and untied heads run alike."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs | None):
        shape = (config.output_size, config.hidden_size)
        self.blocks = (config.head_format, shape) if config.head_format else None
        kept = _matrices(rngs, config.hidden_size, shape[0], config.head_format or config.weight_format)
        self.kernel, self.kernel_scale, _ = kept

    def __call__(self, x: Array, *, norm: RMSNorm | None = None, valid: Array | None = None) -> Array:
        """Map `x [..., D]` float32, or its norm, to logits `[..., U]` float32; `valid` as in `Linear`."""
        if self.blocks is not None:
            return _block_matmul(x, _blocks(self.kernel, self.kernel_scale, None, *self.blocks), norm, rows=valid)
        return _product(x if norm is None else norm(x), self.kernel, self.kernel_scale, 1)


class Embedding(nnx.Module):
    """A table of token vectors `[V, D]`; tied, it is the output head too."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs | None):
        shape = (config.vocab_size, config.hidden_size)
        format = config.embedding_format or config.head_format
        self.blocks = (format, shape) if format else None
        kept = _matrices(rngs, config.hidden_size, shape[0], format or "float")
        self.embedding, self.embedding_scale, _ = kept

    def __call__(self, tokens: Array) -> Array:
        """Vectors `[..., D]` float32 of tokens `[...]` int32."""
        if self.blocks is not None:
            return gelato_kernels.unpack_rows(self._table(), tokens)
        return jnp.take(self.embedding[...], tokens, axis=0).astype(jnp.float32)

    def unembed(self, x: Array, *, norm: RMSNorm | None = None, valid: Array | None = None) -> Array:
        """Map `x [..., D]` float32, or its norm, to logits `[..., V]` float32; `valid` as in `Linear`."""
        if self.blocks is not None:
            return _block_matmul(x, self._table(), norm, rows=valid)
        return product(x if norm is None else norm(x), self.embedding[...], 1)

    def _table(self) -> gelato_kernels.BlockWeights:
        assert self.blocks is not None
        return _blocks(self.embedding, self.embedding_scale, None, *self.blocks)


def _matrices(
    rngs: nnx.Rngs | None, inputs: int, outputs: int, kind: WeightFormat, *, outputs_first: bool = True
) -> tuple[nnx.Param, nnx.Param | None, nnx.Param | None]:
    """A random matrix as it is kept, its scales and its minimums; their shapes alone if there is no `rngs`."""
    if rngs is None:
        kept = _outlines(inputs, outputs, kind, outputs_first)
    else:
        kept = _random(rngs.params(), inputs, outputs, kind, outputs_first)
    matrix, *rest = kept
    scale, minimum = (None if numbers is None else nnx.Param(numbers) for numbers in rest)
    return nnx.Param(matrix), scale, minimum


def _random(key: Array, inputs: int, outputs: int, kind: WeightFormat, outputs_first: bool):
    """`[out, in]` or `[in, out]`, or its outputs in few bits, scales and minimums."""
    matrix = jax.random.normal(key, (outputs, inputs) if outputs_first else (inputs, outputs)) * inputs**-0.5
    if kind == "float":
        return matrix, None, None
    rows = matrix if outputs_first else matrix.T
    if kind == "int8":
        return (*gelato_kernels.quantize_rows(rows), None)
    blocks = gelato_kernels.quantize_blocks(rows, kind)
    return blocks.packed, blocks.scales, blocks.minimums


@cache
def _outlines(inputs: int, outputs: int, kind: WeightFormat, outputs_first: bool):
    """Kept, for a decoder has hundreds of matrices and few shapes of them, and is outlined at each start."""
    return jax.eval_shape(lambda: _random(jax.random.key(0), inputs, outputs, kind, outputs_first))


def _blocks(
    packed: nnx.Param,
    scale: nnx.Param | None,
    minimum: nnx.Param | None,
    kind: BlockFormat,
    shape: tuple[int, int],
    layer: Array | None = None,
) -> gelato_kernels.BlockWeights:
    return gelato_kernels.BlockWeights(
        packed=packed[...],
        scales=None if scale is None else scale[...],
        minimums=None if minimum is None else minimum[...],
        format=kind,
        shape=shape,
        layer=layer,
    )


def _block_matmul(x: Array, weights: gelato_kernels.BlockWeights, norm: RMSNorm | None, **around: Any) -> Array:
    """The norm in the same call: XLA's sums of a row differ with the rows beside it."""
    ahead = None if norm is None else (norm.scale[...], norm.eps)
    return gelato_kernels.block_matmul(x, weights, norm=ahead, **around)


def _product(x: Array, kernel: nnx.Param, scale: nnx.Param | None, axis: int) -> Array:
    if scale is None:
        return product(x, kernel[...], axis)
    return gelato_kernels.quantized_matmul(x, kernel[...], scale[...])


class GatedMLP(nnx.Module):
    """SwiGLU MLP (arXiv 2002.05202); gate and up are one product."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs | None):
        self.gate_up = Linear(config.hidden_size, 2 * config.mlp_size, config, rngs=rngs)
        self.down = Linear(config.mlp_size, config.hidden_size, config, rngs=rngs)

    def __call__(self, x: Array, norm: RMSNorm, valid: Array | None = None, layer: Array | None = None) -> Array:
        """`x [..., D]` with the MLP of its norm added; `valid` and `layer` as in `Linear`."""
        both = self.gate_up(x, norm=norm, valid=valid, layer=layer)
        return self.down(both, gated=True, residual=x, valid=valid, layer=layer)


Angles = tuple[Array, Array]
"""Cosines and sines of the rotary angles of a window's positions, `[B, T, H/2]` float32 each."""


def rope_frequencies(config: ModelConfig) -> Array:
    """Angular frequency of every rotated pair, `[H/2]` float32, radians per position.

    Source: arXiv 2104.09864; the Llama 3 stretch of low frequencies is that of the reference
    implementation published with Llama 3.1.
    """
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies = config.rope_theta**-exponent
    return frequencies if config.rope_scaling is None else _stretch(frequencies, config.rope_scaling)


def _stretch(frequencies: Array, scaling: RopeScaling) -> Array:
    wavelength = 2 * jnp.pi / frequencies
    turns = scaling.original_max_positions / wavelength
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = jnp.clip(blend, 0.0, 1.0)
    return frequencies * (blend + (1 - blend) / scaling.factor)


def rotate(x: Array, angles: Angles) -> Array:
    """Rotate the pairs (i, i + H/2) of `x [B, T, heads, H]`."""
    cos, sin = angles[0][:, :, None, :], angles[1][:, :, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
