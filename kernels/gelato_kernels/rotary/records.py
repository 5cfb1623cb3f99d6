"""What becomes of queries and keys between their projection and attention."""

import functools
from dataclasses import dataclass

import jax
from jax import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("cosine", "sine", "query_norm", "key_norm", "rows", "layer"),
    meta_fields=("epsilon", "scale"),
)
@dataclass(frozen=True, kw_only=True)
class Turn:
    """Norm, rotation and scale of a window, and how many of its tokens count.

    Attributes:
        cosine: float32 [B, T, H / 2] of each token's angles.
        sine: the same.
        query_norm: float32 [H] scale of the queries' RMS norm, or None; [layers, H] where there is a `layer`.
        key_norm: float32 [H] of the keys', None where the other is.
        rows: int32 [B] tokens of each window that count, or None for all.
        layer: int32 [] of caches [B, layers, K, S, H], or None.
        epsilon: of the norms.
        scale: of scores.
    """

    cosine: Array
    sine: Array
    query_norm: Array | None
    key_norm: Array | None
    rows: Array | None
    layer: Array | None
    epsilon: float
    scale: float
