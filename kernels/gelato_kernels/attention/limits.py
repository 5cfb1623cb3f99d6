"""What the Pallas kernels of `window_attention` serve; apart from them, so that asking imports no Pallas."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from gelato_kernels.compilers import Compiler
from gelato_kernels.warpgroups import THREADS

MOST_QUERIES = 128
"""Queries of one key head that a program holds at once; with more (prompts) XLA's own products are the better form."""
LARGEST_HEAD = 128
"""Numbers a head on a GPU: with 256, 64 float32 queries pass the shared memory of a smaller one (sm_89), and 128 spill
kilobytes of registers on the largest (ptxas, sm_90a)."""


def refuses(compiler: Compiler) -> Callable[..., str | None]:
    """What `Backend.refuses` is for a compiler."""

    def reason(query: Array, cache_key: Array, cache_value: Array, *others: Array) -> str | None:
        del others
        _, window, heads, size = query.shape
        queries = heads // cache_key.shape[1] * window
        if queries > MOST_QUERIES:
            return f"{queries} queries share a key head, at most {MOST_QUERIES} are served"
        if compiler.name == "triton" and size > LARGEST_HEAD:
            return f"heads have {size} numbers, at most {LARGEST_HEAD} are served"
        for cache in (cache_key, cache_value):
            if cache.dtype not in (jnp.float32, jnp.bfloat16):
                return f"a cache is {cache.dtype}, float32 and bfloat16 are served"
        return None

    return reason


def refuses_mosaic(query: Array, cache_key: Array, *others: Array) -> str | None:
    """What `Backend.refuses` is for Mosaic GPU."""
    del others
    size, slots = cache_key.shape[3], cache_key.shape[2]
    if size % THREADS and THREADS % size:
        return f"heads have {size} numbers, multiples and divisors of {THREADS} are served"
    if slots * size < THREADS:
        return f"a cache of {slots} slots is shorter than a vector"
    return None


def refuses_native(query: Array, cache_key: Array, cache_value: Array, *others: Array) -> str | None:
    """What `Backend.refuses` is for the compiled kernel."""
    del query, others
    if cache_key.dtype != cache_value.dtype or cache_key.dtype not in (jnp.float32, jnp.bfloat16):
        return f"caches are {cache_key.dtype} and {cache_value.dtype}, float32 or bfloat16 are served"
    return None
