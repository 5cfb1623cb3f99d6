"""`unembed_entropy`: what `entropy` says of a head's logits, without the logits."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.blocks import block_size
from gelato_kernels.checks import expect, expect_draw, expect_logits
from gelato_kernels.compilers import Compiler, pallas_backends
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.token_stats.api import TokenStats
from gelato_kernels.unembedding import reference, xla
from gelato_kernels.warpgroups import THREADS, mosaic_backends

MOST_ROWS = 64
"""Rows that the kernels serve, assumed: beyond them a product that keeps its logits costs less than the weights."""
MOST_BLOCK_BYTES = 6 * 2**20
"""Of one block of weights on a TPU: two are held at once, in 16 MiB of which the scratch of a product is a part."""

MOST_SCALAR_ROWS = 16
"""Rows that a program of Mosaic GPU serves, whose sums it keeps as scalars."""


def _refuses(compiler: Compiler) -> Callable[..., str | None]:
    def refuse(hidden: Array, weight: Array, *_: Array | None) -> str | None:
        rows = hidden.size // hidden.shape[-1] if hidden.size else 0
        block = block_size(weight.shape[0]) * weight.shape[1] * weight.dtype.itemsize
        if not 1 <= rows <= MOST_ROWS:
            return f"{rows} rows, from 1 to {MOST_ROWS} are served"
        if compiler.name == "tpu" and block > MOST_BLOCK_BYTES:
            return f"a block of weights has {block} bytes, at most {MOST_BLOCK_BYTES} are served"
        return None

    return refuse


def _refuses_mosaic(hidden: Array, weight: Array, *others: Array | None) -> str | None:
    if weight.shape[1] < THREADS:
        return f"weight has {weight.shape[1]} inputs, at least {THREADS} are served"
    rows = hidden.size // hidden.shape[-1]
    return None if 1 <= rows <= MOST_SCALAR_ROWS else f"{rows} rows, from 1 to {MOST_SCALAR_ROWS} are served"


BACKENDS = (
    *pallas_backends("gelato_kernels.unembedding.pallas", "unembed_entropy", _refuses),
    *mosaic_backends("gelato_kernels.unembedding.mosaic", "unembed_entropy", _refuses_mosaic),
    Backend("xla", xla.unembed_entropy, narrow=True),
    Backend("reference", reference.unembed_entropy),
)


def unembed_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    uniforms: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    implementation: str | None = None,
) -> TokenStats:
    """`entropy` of the logits hidden @ weight.T, which the kernels never write to memory.

    The kernels compute each block of the vocabulary's logits where its weights are read, and leave a
    few numbers of it; of a draw the one block that was chosen is computed again. `xla` stores logits.

    Args:
        hidden: [..., D] floating, normed hidden states.
        weight: [V, D] float32, bfloat16, float16 or int8. Products are in this dtype, those of int8 in bfloat16
            (`xla` on a CPU: see `quantized_matmul`); sums are float32.
        scale: [V] floating, of int8 rows.
        uniforms: [..., 2] from `gelato_kernels.uniforms`, or None for no draw.
        temperature: [] or [...], traced; None is 1. Where it is 0 or less the token is the argmax.
        implementation: a backend's name or None, see the package.

    Returns:
        TokenStats in float32 and int32; token None where no uniforms were given.

    Raises:
        ValueError: wrong shape or dtype, int8 weights without scales or scales without them, a temperature without
            uniforms, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    op = "unembed_entropy"
    weight = jnp.asarray(weight)
    if weight.dtype == jnp.int8:
        weight = expect(op, "weight", weight, "integer", (None, None), "[V, D]")
        if scale is None:
            raise ValueError(f"{op}: weight is int8 and scale is None, expected [V] of weight")
        scale = expect(op, "scale", scale, "floating", weight.shape[:1], "[V] of weight").astype(jnp.float32)
    elif scale is not None:
        raise ValueError(f"{op}: scale is given for {weight.dtype} weights, expected int8 weights with it")
    else:
        weight = expect_logits(op, "weight", weight, (None, None), "[V, D]")
    hidden = expect(op, "hidden", hidden, "floating", None, "[..., D]")
    if hidden.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"{op}: hidden has shape {hidden.shape}, expected (..., {weight.shape[1]}) = [..., D] of weight"
        )
    uniforms, temperature = expect_draw(op, uniforms, temperature, hidden.shape[:-1])
    return TokenStats(*dispatch(op, BACKENDS, implementation, hidden, weight, scale, uniforms, temperature))
