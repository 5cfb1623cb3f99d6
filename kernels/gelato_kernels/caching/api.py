"""`write_window`: what a window of tokens leaves in a cache."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels import native as compiled
from gelato_kernels.caching import native, reference, xla
from gelato_kernels.checks import expect
from gelato_kernels.dispatch import Backend, dispatch


def _refuses(cache: Array, *others: object) -> str | None:
    del others
    served = cache.dtype in (jnp.float32, jnp.bfloat16)
    return None if served else f"the cache is {cache.dtype}, float32 and bfloat16 are served"


BACKENDS = (
    Backend("native", native.write_window, platforms=("cpu",), refuses=_refuses, lacks=compiled.reason, narrow=True),
    Backend("xla", xla.write_window, narrow=True),
    Backend("reference", reference.write_window, narrow=True),
)


def write_window(
    cache: ArrayLike, window: ArrayLike, lengths: ArrayLike, *, implementation: str | None = None
) -> Array:
    """Put a window of T tokens behind the `lengths` first slots of a cache of keys or values.

    In place where the cache is donated or carried by a loop.

    Args:
        cache: [B, ..., S, H] floating.
        window: [B, ..., T, H] floating; rounded to the cache's dtype.
        lengths: [B] integer, slots of each row that stay as they are; of a window what would pass the last slot, or
            lie ahead of the first, is dropped.
        implementation: `native` (what a CPU gets where there is a C++ compiler, for caches in float32 or bfloat16: XLA
            there turns a whole bfloat16 cache into float32 and back, and writes rows of a batch number by number),
            `xla` (all else), `reference` or None.

    Returns:
        The cache, of the same shape and dtype.

    Raises:
        ValueError: wrong shape or dtype, or an implementation that cannot serve these.
    """
    op = "write_window"
    cache = expect(op, "cache", cache, "floating", None, "[B, ..., S, H]")
    if cache.ndim < 3:
        raise ValueError(f"{op}: cache has shape {cache.shape}, expected at least three axes = [B, ..., S, H]")
    shape = (*cache.shape[:-2], None, cache.shape[-1])
    window = expect(op, "window", window, "floating", shape, "[B, ..., T, H] of cache")
    lengths = expect(op, "lengths", lengths, "integer", cache.shape[:1], "[B] of cache").astype(jnp.int32)
    written: Array = dispatch(op, BACKENDS, implementation, cache, window.astype(jnp.float32), lengths)
    return written
