"""`full`: each drafted id with all of its q. The classical split: the edge draws the residual."""

from typing import Any, ClassVar

import numpy as np
from jax import Array

from gelato_jax.payloads.base import PROBABILITY_BITS, EveryColumn, Scheme, draw_on_edge
from gelato_jax.payloads.bits import BitReader, BitWriter
from gelato_jax.payloads.messages import Downlink, DraftIds, Proposal, RoundNoise, Uplink, Vocabularies
from gelato_jax.types import record


@record
class Full(EveryColumn):
    """All of q as float32, over the draft's vocabulary."""

    scheme: ClassVar[Scheme] = "full"

    def verify(self, uplink: Uplink, log_weights: Array, noise: RoundNoise, ids: DraftIds) -> tuple[Downlink, None]:
        """Rejection sampling, the residual drawn here."""
        assert uplink.log_weights is not None
        return draw_on_edge(uplink, uplink.log_weights, log_weights, noise, ids)

    def draft_bits(self, sizes: Vocabularies, drafted: Array, support: Array | float) -> Array:
        """An id, Q float32, and the further column's id."""
        del support
        return drafted * float(sizes.id_bits * (1 + sizes.further) + PROBABILITY_BITS * sizes.draft)

    def _with_drafts(self, proposal: Proposal) -> dict[str, Array]:
        return {"log_weights": proposal.log_weights, "repeated": proposal.repeated}

    def _put_draft(self, writer: BitWriter, uplink: Uplink, at: tuple[int, int], ids: DraftIds) -> None:
        assert uplink.log_weights is not None
        super()._put_draft(writer, uplink, at, ids)
        writer.put_floats(np.asarray(uplink.log_weights[at]))

    def _take_draft(self, reader: BitReader, ids: DraftIds) -> dict[str, Any]:
        return {**super()._take_draft(reader, ids), "log_weights": reader.floats(ids.sizes.draft)}

    def _no_drafts(self, max_draft_length: int, sizes: Vocabularies) -> dict[str, Any]:
        none = super()._no_drafts(max_draft_length, sizes)
        return {**none, "log_weights": np.zeros((1, max_draft_length, sizes.draft), np.float32)}


def full() -> Full:
    """All of q, over the draft's vocabulary; the edge draws the residual."""
    return Full()
