"""The pieces of a decoder layer: linear, RMS norm, rotary embedding, gated MLP.

Numbers: the residual stream, norms and sums are float32 whatever the weights are; a product takes
its input in the weights' dtype and accumulates in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gelato_jax.config import ModelConfig, RopeScaling


class Linear(nnx.Module):
    """`x @ kernel (+ bias)`, kernel `[in, out]`: the layout that float32 windows want on a CPU."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)) * inputs**-0.5)
        self.bias = nnx.Param(jnp.zeros((outputs,))) if bias else None

    def __call__(self, x: Array) -> Array:
        """Map `x [..., in]` float32 to `[..., out]` float32."""
        kernel = self.kernel[...]
        y = jnp.dot(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
        return y if self.bias is None else y + self.bias[...].astype(jnp.float32)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a scale, in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((size,)))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """Normalise the last axis of `x [..., size]` float32."""
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean_square + self.eps) * self.scale[...].astype(jnp.float32)


class GatedMLP(nnx.Module):
    """SwiGLU MLP (arXiv 2002.05202); gate and up are one product."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.gate_up = Linear(config.hidden_size, 2 * config.mlp_size, rngs=rngs)
        self.down = Linear(config.mlp_size, config.hidden_size, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map `x [..., D]` to `[..., D]`."""
        gate, up = jnp.split(self.gate_up(x), 2, axis=-1)
        return self.down(jax.nn.silu(gate) * up)


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


def rotate(x: Array, angles: Array) -> Array:
    """Rotate the pairs (i, i + H/2) of `x [B, T, heads, H]` by `angles [B, T, H/2]`."""
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
