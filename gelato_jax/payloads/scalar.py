"""`scalar`: each drafted id with its own q(x). After a rejection the target's row comes down, and the device draws.

DSSD, arXiv 2507.12000, whose paper and code print the ratio inverted; here a draft is accepted with min(1, p/q).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

import gelato_kernels
from gelato_jax.keys import Use
from gelato_jax.payloads.base import HEADER_BITS, PROBABILITY_BITS, Payload, Scheme, accepted_drafts
from gelato_jax.payloads.bits import BitReader, BitWriter
from gelato_jax.payloads.messages import (
    Downlink,
    DraftIds,
    Proposal,
    Resolution,
    RoundNoise,
    Uplink,
    Vocabularies,
    row_at,
)
from gelato_jax.types import record


@record
class Scalar(Payload):
    """Ids and float32 log q(x) up; one float32 row down."""

    scheme: ClassVar[Scheme] = "scalar"
    draws_on_device: ClassVar[bool] = True

    def verify(
        self, uplink: Uplink, log_weights: Array, noise: RoundNoise, ids: DraftIds
    ) -> tuple[Downlink, Array | None]:
        """Rejection sampling; the bonus token is drawn here, the residual there."""
        del ids
        assert uplink.log_prob is not None
        accepted = accepted_drafts(uplink, uplink.log_prob, log_weights, noise)
        row = row_at(log_weights, accepted)
        bonus = gelato_kernels.sample(row, noise.uniforms(Use.NEXT_TOKEN, (2,)))
        return dataclasses.replace(uplink.answer(accepted, bonus), row=row), None

    def resolve(
        self, proposal: Proposal, downlink: Downlink, noise: RoundNoise, ids: DraftIds, ask: Callable[[], Array]
    ) -> Resolution:
        """Draw the residual after a rejection."""
        del ask
        assert downlink.row is not None
        token = draw_residual(proposal, downlink, downlink.row, noise, ids)
        return Resolution(next_token=token, asked=jnp.zeros_like(downlink.fault))

    def draft_bits(self, sizes: Vocabularies, drafted: Array, support: Array | float) -> Array:
        """An id and a float32."""
        del support
        return drafted * float(sizes.id_bits + PROBABILITY_BITS)

    def downlink_bits(self, sizes: Vocabularies, *, rejected: Array, asked: Array | float = 0.0) -> Array:
        """An id, or a row after a rejection."""
        del asked
        rejected = jnp.asarray(rejected, jnp.float32)
        row = float(PROBABILITY_BITS * sizes.target)
        return HEADER_BITS + (1.0 - rejected) * float(sizes.id_bits) + rejected * row

    def _with_drafts(self, proposal: Proposal) -> dict[str, Array]:
        return {"log_prob": proposal.log_prob}

    def _put_draft(self, writer: BitWriter, uplink: Uplink, at: tuple[int, int], ids: DraftIds) -> None:
        assert uplink.log_prob is not None
        super()._put_draft(writer, uplink, at, ids)
        writer.put_floats(np.asarray(uplink.log_prob[at]))

    def _take_draft(self, reader: BitReader, ids: DraftIds) -> dict[str, Any]:
        return {**super()._take_draft(reader, ids), "log_prob": reader.floats(1)[0]}

    def _no_drafts(self, max_draft_length: int, sizes: Vocabularies) -> dict[str, Any]:
        none = super()._no_drafts(max_draft_length, sizes)
        return {**none, "log_prob": np.zeros((1, max_draft_length), np.float32)}

    def _put_answer(self, writer: BitWriter, downlink: Downlink, row: int, rejected: bool, sizes: Vocabularies) -> None:
        if rejected:
            self._put_rejection(writer, downlink, row, sizes)
        else:
            super()._put_answer(writer, downlink, row, rejected, sizes)

    def _take_answer(self, reader: BitReader, rejected: bool, sizes: Vocabularies) -> dict[str, Any]:
        return self._take_rejection(reader, sizes) if rejected else super()._take_answer(reader, rejected, sizes)

    def _no_answer(self, sizes: Vocabularies) -> dict[str, Any]:
        return {**super()._no_answer(sizes), **self._no_rejection(sizes)}

    def _put_rejection(self, writer: BitWriter, downlink: Downlink, row: int, sizes: Vocabularies) -> None:
        assert downlink.row is not None
        writer.put_floats(np.asarray(downlink.row[row]))

    def _take_rejection(self, reader: BitReader, sizes: Vocabularies) -> dict[str, Any]:
        return {"row": reader.floats(sizes.target)}

    def _no_rejection(self, sizes: Vocabularies) -> dict[str, Any]:
        return {"row": np.zeros((1, sizes.target), np.float32)}


def draw_residual(proposal: Proposal, downlink: Downlink, row: Array, noise: RoundNoise, ids: DraftIds) -> Array:
    """The next token `[B]`: the edge's where all drafts are accepted, else a draw from norm(max(p - q, 0)).

    Arguments as `Payload.resolve`; `row [B, V]` is the target's after the accepted drafts.
    """
    is_bonus = downlink.accepted == proposal.length
    draft_row = ids.spread(*proposal.at(downlink.accepted)) if proposal.tokens.shape[1] else jnp.zeros_like(row)
    drawn = gelato_kernels.sample_residual(row, draft_row, is_bonus, noise.uniforms(Use.NEXT_TOKEN, (2,)))
    return jnp.where(is_bonus, downlink.next_token, drawn.token)


def scalar() -> Scalar:
    """The id and q(x) go up; after a rejection one target row comes down (arXiv 2507.12000)."""
    return Scalar()
