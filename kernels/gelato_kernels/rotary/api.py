"""`rotary_attention`: a decoder's attention from its projection on."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels import native as compiled
from gelato_kernels.attention import limits
from gelato_kernels.checks import expect
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.rotary import native, reference, xla
from gelato_kernels.rotary.records import Turn


def _refuses(projected: Array, cache_key: Array, cache_value: Array, *others: object) -> str | None:
    del others
    return limits.refuses_native(projected, cache_key, cache_value)


BACKENDS = (
    Backend(
        "native",
        native.rotary_attention,
        platforms=("cpu",),
        refuses=_refuses,
        lacks=compiled.reason,
        narrow=True,
    ),
    Backend("xla", xla.rotary_attention, narrow=True),
    Backend("reference", reference.rotary_attention),
)


class Attended(NamedTuple):
    """A window after its attention; float32."""

    output: Array  # [B, T, N * H]
    key: Array  # [B, K, T, H] normed and rotated: what the cache is to hold
    value: Array  # [B, K, T, H]


def rotary_attention(
    projected: ArrayLike,
    cache_key: ArrayLike,
    cache_value: ArrayLike,
    lengths: ArrayLike,
    cosine: ArrayLike,
    sine: ArrayLike,
    *,
    norms: tuple[ArrayLike, ArrayLike, float] | None = None,
    rows: ArrayLike | None = None,
    layer: ArrayLike | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Attended:
    """`window_attention` of queries and keys that are rotated first (arXiv 2104.09864), out of one projection.

    Numbers i and i + H / 2 of a head are a pair: (x, y) becomes (x cos - y sin, y cos + x sin).

    Args:
        projected: [B, T, (N + 2 K) * H] floating: each token's N queries, K keys and K values, a head after another.
        cache_key: [B, K, S, H] floating; K and H are taken from it, H is even.
        cache_value: [B, K, S, H] floating. For both, see `window_attention`.
        lengths: [B] integer, slots of each row that are attended to; clipped to 0 and S.
        cosine: [B, T, H / 2] floating, of the angles of each token's position.
        sine: the same.
        norms: (query scale [H], key scale [H], epsilon): each head goes through x * rsqrt(mean(x^2) + epsilon) * scale
            (arXiv 1910.07467, eq. 4) before it is rotated.
        rows: [] or [B] integer: of the T tokens only so many count; others are skipped, their results zero.
        layer: [] integer: of caches [B, layers, K, S, H], and norms [layers, H], which is meant; clipped to what there
            is. By `native` it is read in place.
        scale: of the scores; None is H**-0.5.
        implementation: `native` (what a CPU gets where there is a C++ compiler, for caches in float32 or bfloat16; a
            token's result has the same bits in any window), `xla` (all else: XLA's code and, for the attention, what
            `window_attention` chooses), `reference` or None.

    Returns:
        Attended: the attention's output, and the keys and values to be written to the cache.

    Raises:
        ValueError: wrong shape or dtype, an empty axis, an odd H, an implementation that is unknown or not there.
        NotImplementedError: if differentiated.
    """
    op = "rotary_attention"
    projected = expect(op, "projected", projected, "floating", (None,) * 3, "[B, T, (N + 2 K) * H]")
    batch, window, width = projected.shape
    stacked, letters = ((), "[B, K, S, H] of projected") if layer is None else ((None,), "[B, layers, K, S, H]")
    cache_key = expect(op, "cache_key", cache_key, "floating", (batch, *stacked, None, None, None), letters)
    for name, shape in (("projected", projected.shape), ("cache_key", cache_key.shape)):
        if 0 in shape:
            raise ValueError(f"{op}: {name} has shape {shape}, expected no empty axis")
    kv_heads, _, size = cache_key.shape[-3:]
    layers = () if layer is None else cache_key.shape[1:2]
    heads = width // size - 2 * kv_heads
    if size % 2 or width % size or heads < kv_heads or heads % kv_heads:
        raise ValueError(
            f"{op}: projected has {width} numbers a token, expected (N + 2 * {kv_heads}) * {size} of cache_key "
            f"{cache_key.shape}, {size} even and N a multiple of {kv_heads}"
        )
    cache_value = expect(op, "cache_value", cache_value, "floating", cache_key.shape, "[B, K, S, H] of cache_key")
    lengths = expect(op, "lengths", lengths, "integer", (batch,), "[B] of projected").astype(jnp.int32)
    if rows is not None:
        rows = expect(op, "rows", rows, "integer", (batch,) if np.ndim(rows) else (), "[] or [B] of projected")
        rows = jnp.broadcast_to(rows.astype(jnp.int32), (batch,))

    def floats(name: str, given: ArrayLike | None, shape: tuple[int, ...], letters: str) -> Array | None:
        return None if given is None else expect(op, name, given, "floating", shape, letters).astype(jnp.float32)

    angles = (batch, window, size // 2)
    turn = Turn(
        cosine=expect(op, "cosine", cosine, "floating", angles, "[B, T, H / 2]").astype(jnp.float32),
        sine=expect(op, "sine", sine, "floating", angles, "[B, T, H / 2]").astype(jnp.float32),
        query_norm=floats("norms[0]", norms and norms[0], (*layers, size), "[H]"),
        key_norm=floats("norms[1]", norms and norms[1], (*layers, size), "[H]"),
        rows=rows,
        layer=None if layer is None else expect(op, "layer", layer, "integer", (), "[]").astype(jnp.int32),
        epsilon=float(norms[2]) if norms else 0.0,
        scale=size**-0.5 if scale is None else float(scale),
    )
    projected = projected.astype(jnp.float32)
    return Attended(*dispatch(op, BACKENDS, implementation, projected, cache_key, cache_value, lengths, turn))
