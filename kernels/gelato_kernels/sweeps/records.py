"""What a backend's sweeps take and give."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from gelato_kernels.blocks import Scale


class Statistics(NamedTuple):
    """One pass over a row x; d = x - maximum."""

    maximum: Array  # [...]
    total: Array  # [...] sum of exp(d)
    weighted: Array  # [...] sum of d * exp(d), <= 0
    argmax: Array  # [...] int32, the lowest id among ties; where a logit is nan, anything
    block_sums: Array  # [..., blocks] of exp(d / temperature)


class Sweeps(NamedTuple):
    """The passes of one backend; logits are floating, -inf is legal, at least one of a row is finite."""

    statistics: Callable[[Array, Array | None], Statistics]
    """Of logits [..., V] and temperatures [...], all above 0; None is 1."""
    residual: Callable[[Array, Array, Scale, Scale, Array], Array]
    """Block masses [B, blocks] of max(p - q, 0), of logits [B, V] of the two distributions and their scales.

    Rows that are not needed (the last argument, [B] bool) may get anything, and q's logits there hold anything.
    """
