"""`window_attention`: new tokens attend to a cache that is only read, and to each other."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels import native as compiled
from gelato_kernels.attention import limits, native, reference, xla
from gelato_kernels.checks import expect
from gelato_kernels.compilers import pallas_backends
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.warpgroups import mosaic_backends

BACKENDS = (
    *pallas_backends("gelato_kernels.attention.pallas", "window_attention", limits.refuses),
    *mosaic_backends("gelato_kernels.attention.mosaic", "window_attention", limits.refuses_mosaic),
    Backend(
        "native",
        native.window_attention,
        platforms=("cpu",),
        refuses=limits.refuses_native,
        lacks=compiled.reason,
        narrow=True,
    ),
    Backend("cpu", xla.window_attention_cpu, platforms=("cpu",), narrow=True),
    Backend("xla", xla.window_attention, narrow=True),
    Backend("reference", reference.window_attention),
)


def window_attention(
    query: ArrayLike,
    cache_key: ArrayLike,
    cache_value: ArrayLike,
    lengths: ArrayLike,
    window_key: ArrayLike,
    window_value: ArrayLike,
    *,
    scale: float | None = None,
    implementation: str | None = None,
) -> Array:
    """Grouped-query softmax attention of a window of T new tokens after each row's cached text.

    Token i of the window attends to the first `lengths` slots of its row's cache and to tokens 0 to i
    of the window: out = sum_j softmax_j(scale * query . key_j) value_j (arXiv 1706.03762, equation 1),
    where query head n reads key head n // (N / K) (arXiv 2305.13245).

    The cache is only read: write the window's keys and values after `lengths` afterwards. On a TPU
    the write should index rows, heads and slots: a scatter whose updates span heads wants another
    layout, between which and the kernel's XLA copies the whole cache at every call.

    Sums and exponentials are float32. Products take queries in the keys' dtype and weights in the
    values'; those of float32 have the precision that `jax.default_matmul_precision` names. (`native` keeps queries and
    weights in float32, and rounds new keys and values to the cache's dtype, as they will be read from it.)

    Args:
        query: [B, T, N, H] finite floating; N is a multiple of K.
        cache_key: [B, K, S, H] floating.
        cache_value: [B, K, S, H] floating. Slots from `lengths` on have weight zero and may hold anything finite, as
            text that was taken back leaves it; nan in dead values is hidden by the Pallas and native kernels alone.
        lengths: [B] integer, slots of each row that are attended to; clipped to 0 and S.
        window_key: [B, K, T, H] finite floating.
        window_value: [B, K, T, H] finite floating.
        scale: of the scores; None is H**-0.5.
        implementation: `pallas_tpu` and `pallas_triton` (what a TPU and a GPU get for N / K * T of up to 128, caches
            in float32 or bfloat16 and, on a GPU, H of up to 128; dead blocks of the cache are skipped), `native` (what
            a CPU gets where there is a C++ compiler, for caches in float32 or bfloat16; reads valid slots alone, and a
            token's result has the same bits whichever window it is in, and whether the text behind it is cached or
            new), `cpu` (other CPUs and caches; reads the shortest of a few prefixes that holds every row), `xla` (all
            else; reads the whole cache), `reference` or None; `pallas_tpu_interpret` and `pallas_triton_interpret`
            run the kernels as XLA code.

    Returns:
        [B, T, N, H] float32.

    Raises:
        ValueError: wrong shape or dtype, an empty axis, an unknown implementation or one that cannot serve the inputs.
        NotImplementedError: if differentiated.
    """
    op = "window_attention"
    query = expect(op, "query", query, "floating", (None,) * 4, "[B, T, N, H]")
    batch, window, heads, size = query.shape
    cache_key = expect(op, "cache_key", cache_key, "floating", (batch, None, None, size), "[B, K, S, H] of query")
    kv_heads = cache_key.shape[1]
    for name, shape in (("query", query.shape), ("cache_key", cache_key.shape)):
        if 0 in shape:
            raise ValueError(f"{op}: {name} has shape {shape}, expected no empty axis")
    if heads % kv_heads:
        raise ValueError(f"{op}: query has {heads} heads, expected a multiple of cache_key's {kv_heads}")
    cache_value = expect(op, "cache_value", cache_value, "floating", cache_key.shape, "[B, K, S, H] of cache_key")
    lengths = expect(op, "lengths", lengths, "integer", (batch,), "[B] of query").astype(jnp.int32)
    fresh = (batch, kv_heads, window, size)
    window_key = expect(op, "window_key", window_key, "floating", fresh, "[B, K, T, H]")
    window_value = expect(op, "window_value", window_value, "floating", fresh, "[B, K, T, H]")
    query = query.astype(jnp.float32) * (size**-0.5 if scale is None else scale)
    return dispatch(op, BACKENDS, implementation, query, cache_key, cache_value, lengths, window_key, window_value)
