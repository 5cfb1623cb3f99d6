"""`write_window` by XLA."""

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.jit  # so that layers alike share one tracing and lowering; XLA inlines the calls
def write_window(cache: Array, window: Array, lengths: Array) -> Array:
    """The cache, in place when donated."""
    window = window.astype(cache.dtype)
    *leading, tokens, _ = window.shape
    if leading[0] == 1 and tokens <= cache.shape[-2]:
        return _one_row(cache, window, lengths[0])
    # Heads are indexed too: updates that span them want another layout on a TPU than the attention kernel reads, and
    # XLA would copy whole caches between the two at every step.
    places = jnp.ix_(*map(jnp.arange, (*leading, tokens)))
    slots = lengths.reshape(-1, *[1] * len(leading)) + places[-1]
    slots = jnp.where(slots < 0, cache.shape[-2], slots)  # negative ones would count from the end
    return cache.at[(*places[:-1], slots)].set(window, mode="drop")


def _one_row(cache: Array, window: Array, length: Array) -> Array:
    """One move of memory, where a scatter on a CPU goes number by number."""
    tokens, axis = window.shape[-2], cache.ndim - 2
    start = jnp.clip(length, 0, cache.shape[axis] - tokens)
    token = jnp.arange(tokens) + start - length  # of each slot that is written
    inside = ((token >= 0) & (token < tokens))[:, None]
    old = lax.dynamic_slice_in_dim(cache, start, tokens, axis)
    new = jnp.where(inside, jnp.take(window, jnp.clip(token, 0, tokens - 1), axis=axis), old) if tokens else window
    return lax.dynamic_update_slice_in_dim(cache, new, start, axis)
