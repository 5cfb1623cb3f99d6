"""Sweeps by the compiled kernels: a row's result does not depend on the rows beside it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_kernels.blocks import Scale, block_size
from gelato_kernels.sweeps.records import Statistics, Sweeps


def statistics(logits: Array, temperature: Array | None) -> Statistics:
    """See `Sweeps`."""
    rows, vocab = logits.shape[:-1], logits.shape[-1]
    block = block_size(vocab)
    number = jax.ShapeDtypeStruct(rows, jnp.float32)
    whole = jax.ShapeDtypeStruct(rows, jnp.int32)
    sums = jax.ShapeDtypeStruct((*rows, -(-vocab // block)), jnp.float32)
    call = jax.ffi.ffi_call("gelato_statistics", (number, number, number, whole, sums), vmap_method="broadcast_all")
    temperature = jnp.zeros((*rows, 0), jnp.float32) if temperature is None else temperature
    return Statistics(*call(logits, temperature, block=np.int64(block)))


def residual(target: Array, draft: Array, target_scale: Scale, draft_scale: Scale, needed: Array) -> Array:
    """See `Sweeps`."""
    block = block_size(target.shape[-1])
    masses = jax.ShapeDtypeStruct((*needed.shape, -(-target.shape[-1] // block)), jnp.float32)
    call = jax.ffi.ffi_call("gelato_residual", masses, vmap_method="broadcast_all")
    return call(target, draft, *target_scale, *draft_scale, needed, block=np.int64(block))


SWEEPS = Sweeps(statistics, residual)
