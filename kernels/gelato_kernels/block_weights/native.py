"""`block_matmul` by the compiled kernel: one call for the product and what stands around it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_kernels.block_weights.records import Around, BlockWeights


def block_matmul(x: Array, weights: BlockWeights, around: Around) -> Array:
    """Product [..., out] float32 of x [..., in] and block weights, with what stands around it."""
    out, inputs = weights.shape
    call = jax.ffi.ffi_call(
        "gelato_block_matmul", jax.ShapeDtypeStruct((*x.shape[:-1], out), jnp.float32), vmap_method="sequential"
    )
    none = jnp.zeros(0, jnp.float32)
    optional = [none if given is None else given for given in (around.norm, around.bias, around.residual)]
    return call(
        x,
        weights.packed,
        *(jnp.zeros(0, jnp.float16) if given is None else given for given in (weights.scales, weights.minimums)),
        jnp.zeros(0, jnp.int32) if around.rows is None else around.rows.reshape(-1),
        *optional,
        jnp.zeros(0, jnp.int32) if weights.layer is None else weights.layer,
        inputs=np.int64(inputs),
        window=np.int64(x.shape[-2] if x.ndim > 1 else 1),
        gated=around.gated,
        epsilon=np.float32(around.epsilon),
    )
