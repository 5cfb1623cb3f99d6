"""`top_p` and `top_k`: q is cut and renormalised before a token is drawn; its support goes up as (id, q) pairs."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

import gelato_kernels
from gelato_jax.payloads.base import PROBABILITY_BITS, Scheme
from gelato_jax.payloads.bits import BitReader, BitWriter
from gelato_jax.payloads.full import Full
from gelato_jax.payloads.messages import DraftIds, Uplink, Vocabularies
from gelato_jax.types import number, record


class _Truncated(Full):
    """Verified as `full`; sent as the number of pairs, then the pairs, that of the drafted token first."""

    def draft_bits(self, sizes: Vocabularies, drafted: Array, support: Array | float) -> Array:
        """A count of pairs, and an id and a float32 for each."""
        pairs = jnp.asarray(support, jnp.float32) * float(sizes.id_bits + PROBABILITY_BITS)
        return drafted * float(sizes.id_bits) + pairs

    def _put_draft(self, writer: BitWriter, uplink: Uplink, at: tuple[int, int], ids: DraftIds) -> None:
        assert uplink.log_weights is not None
        assert uplink.repeated is not None
        weights, width = np.asarray(uplink.log_weights[at]), ids.sizes.id_bits
        names = np.asarray(ids.names(jnp.asarray(uplink.repeated[at])))
        kept = np.flatnonzero(np.isfinite(weights))
        first = names[kept] == int(uplink.tokens[at])
        kept = np.concatenate([kept[first], kept[~first]])
        writer.put(len(kept) - 1, width)
        writer.put(names[kept], width)
        writer.put_floats(weights[kept])

    def _take_draft(self, reader: BitReader, ids: DraftIds) -> dict[str, Any]:
        width = ids.sizes.id_bits
        count = reader.one(width) + 1
        named, values = reader.take(count, width), reader.floats(count)
        row, repeated = np.full(ids.sizes.draft, -np.inf, np.float32), 0
        columns = np.asarray(ids.columns(jnp.asarray(named)))
        if columns.max() >= ids.sizes.draft:
            raise ValueError(f"a message names an id of which q has no column, {named[columns.argmax()]}")
        if ids.further and (columns == ids.sizes.draft - 1).any():
            repeated = int(named[columns == ids.sizes.draft - 1][0])
        row[columns] = values
        return {"tokens": int(named[0]), "repeated": repeated, "log_weights": row}


@record
class TopP(_Truncated):
    """The likeliest tokens of q up to a mass (TSLT, arXiv 2512.16273)."""

    scheme: ClassVar[Scheme] = "top_p"
    mass: Array  # [] kept mass of q

    def shape(self, log_weights: Array) -> Array:
        """Q cut to its top-p set."""
        return gelato_kernels.top_p_logits(log_weights, self.mass)


@record
class TopK(_Truncated):
    """The k likeliest tokens of q."""

    scheme: ClassVar[Scheme] = "top_k"
    count: Array  # [] int32 kept tokens of q

    def shape(self, log_weights: Array) -> Array:
        """Q cut to its top-k set."""
        return gelato_kernels.top_k_logits(log_weights, self.count)


def top_p(mass: ArrayLike) -> TopP:
    """Cut q to its top-p set and renormalise, then draw (arXiv 2512.16273).

    Args:
        mass: kept mass, 0..1; the likeliest token is always kept.
    """
    return TopP(mass=number("payload top_p", mass, low=0.0, high=1.0))


def top_k(count: ArrayLike) -> TopK:
    """Cut q to its `count` likeliest tokens and renormalise, then draw.

    Args:
        count: kept tokens, >= 1.
    """
    return TopK(count=number("payload top_k", count, low=1, dtype=jnp.int32))
