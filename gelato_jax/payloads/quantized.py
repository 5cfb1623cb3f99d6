"""`quantized`: q is rounded to integers before a token is drawn; the integers go up (arXiv 2507.00605)."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.payloads.base import EveryColumn, Scheme, draw_on_edge
from gelato_jax.payloads.bits import BitReader, BitWriter
from gelato_jax.payloads.messages import Downlink, DraftIds, Proposal, RoundNoise, Uplink, Vocabularies
from gelato_jax.types import number, record


@record
class Quantized(EveryColumn):
    """q as integers, relative to the likeliest token, which therefore never rounds to zero."""

    scheme: ClassVar[Scheme] = "quantized"
    bits: Array  # [] int32 bits of one integer

    def shape(self, log_weights: Array) -> Array:
        """Q rounded."""
        levels = (2.0**self.bits) - 1.0
        relative = jnp.exp(log_weights - log_weights.max(axis=-1, keepdims=True))
        return jnp.log(jnp.round(relative * levels))

    def verify(self, uplink: Uplink, log_weights: Array, noise: RoundNoise, ids: DraftIds) -> tuple[Downlink, None]:
        """Rejection sampling, the residual drawn here."""
        assert uplink.levels is not None
        return draw_on_edge(uplink, jnp.log(uplink.levels.astype(jnp.float32)), log_weights, noise, ids)

    def draft_bits(self, sizes: Vocabularies, drafted: Array, support: Array | float) -> Array:
        """An id, Q integers, and the further column's id."""
        del support
        return drafted * (sizes.id_bits * (1 + sizes.further) + self.bits.astype(jnp.float32) * sizes.draft)

    def _with_drafts(self, proposal: Proposal) -> dict[str, Array]:
        levels = jnp.round(jnp.exp(proposal.log_weights)).astype(jnp.int32)
        return {"levels": levels, "repeated": proposal.repeated}

    def _put_draft(self, writer: BitWriter, uplink: Uplink, at: tuple[int, int], ids: DraftIds) -> None:
        assert uplink.levels is not None
        super()._put_draft(writer, uplink, at, ids)
        writer.put(np.asarray(uplink.levels[at]), int(self.bits))

    def _take_draft(self, reader: BitReader, ids: DraftIds) -> dict[str, Any]:
        return {**super()._take_draft(reader, ids), "levels": reader.take(ids.sizes.draft, int(self.bits))}

    def _no_drafts(self, max_draft_length: int, sizes: Vocabularies) -> dict[str, Any]:
        none = super()._no_drafts(max_draft_length, sizes)
        return {**none, "levels": np.ones((1, max_draft_length, sizes.draft), np.int32)}


def quantized(bits: ArrayLike) -> Quantized:
    """Round q to integers of `bits` bits, then draw (arXiv 2507.00605).

    Args:
        bits: 2..16.
    """
    return Quantized(bits=number("payload bits", bits, low=2, high=16, dtype=jnp.int32))
