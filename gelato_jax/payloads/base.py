"""What a payload scheme is: how q is shaped, what of it travels, and who draws which token.

A scheme is a record of numbers with the functions below; a round calls them in this order:

    device  shape (before a draft is drawn), uplink        -> Uplink
    edge    verify                                          -> Downlink
    device  resolve (the next token, where it draws it)

The bits of a message follow from counts, so that a plan can ask for expected bits by the same formula; they are
those of the encoded message but for the padding of its last byte. q travels as the float32 or the integers that it
was drawn from: rounding it after the draw would bend the output's distribution.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

import gelato_kernels
from gelato_jax.keys import Use
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

Scheme = Literal["full", "top_p", "top_k", "quantized", "scalar", "candidates", "seeded"]

SCHEMES: tuple[str, ...] = get_args(Scheme)

HEADER_BITS = 8
"""First byte of every message: a count in six bits, and two flags."""
PROBABILITY_BITS = 32
"""One float32."""
_COUNT_BITS = 6
MOST_COUNTED = 2**_COUNT_BITS - 1
"""Tokens that one message can count."""
_PENDING, _STREAM = 1, 2
"""Flags of an uplink: the id drawn after the last round follows; the count is of tokens wanted, not of drafts."""
_FAULT = 1
"""Flag of a downlink: the target's logits are no numbers."""


class Payload(Protocol):
    """A payload scheme: records of numbers that inherit from this, and with it what most of them do alike."""

    scheme: ClassVar[Scheme]
    draws_on_device: ClassVar[bool] = False
    """Whether the device draws the token after a rejection; its id goes up with the next round."""
    keeps_row: ClassVar[bool] = False
    """Whether the edge keeps its row after a rejection, for a device that may ask for it."""

    def shape(self, log_weights: Array) -> Array:
        """The q that this scheme can carry, cut or rounded *before* a token is drawn: `[..., Q]` log weights."""
        return log_weights

    def uplink(self, proposal: Proposal, active: Array, wanted: Array, pending: Array) -> Uplink:
        """The device's message. Arguments as the fields of `Uplink`; only a scheme that draws there sends `pending`."""
        return Uplink(
            active=active,
            tokens=proposal.tokens,
            length=proposal.length,
            wanted=wanted,
            pending=pending if self.draws_on_device else None,
            **self._with_drafts(proposal),
        )

    def verify(
        self, uplink: Uplink, log_weights: Array, noise: RoundNoise, ids: DraftIds
    ) -> tuple[Downlink, Array | None]:
        """The edge's answer; the round's fault is set by the caller.

        Args:
            uplink: what came.
            log_weights: `[B, W, V]` log p up to a constant, at the last committed token and W - 1 drafts; W - 1
                covers the longest draft of the batch.
            noise: of the round.
            ids: what q's columns stand for.

        Returns:
            The answer, and the row `[B, V]` that the edge must keep, where the device may ask for it.
        """
        ...

    def resolve(
        self, proposal: Proposal, downlink: Downlink, noise: RoundNoise, ids: DraftIds, ask: Callable[[], Array]
    ) -> Resolution:
        """The next token, at the device.

        Args:
            proposal: what was drafted.
            downlink: the edge's answer.
            noise: of the round.
            ids: what q's columns stand for.
            ask: fetches the target's row `[B, V]` after the accepted drafts, at the cost of another round trip.
        """
        del proposal, noise, ids, ask
        return Resolution(next_token=downlink.next_token, asked=jnp.zeros_like(downlink.fault))

    def asked_probability(self, rejected: Array, acceptance: Array) -> Array:
        """Chance `[...]` that the device asks for a row, if a draft is rejected with chance `rejected [...]`."""
        del acceptance
        return jnp.zeros_like(rejected)

    def draft_bits(self, sizes: Vocabularies, drafted: Array, support: Array | float) -> Array:
        """Bits of the drafts in an uplink. Arguments as `uplink_bits`."""
        ...

    def uplink_bits(
        self,
        sizes: Vocabularies,
        *,
        drafted: Array,
        support: Array | float = 1.0,
        pending: Array | float = 0.0,
        asked: Array | float = 0.0,
    ) -> Array:
        """Bits that the device sends in a round.

        Args:
            sizes: of the vocabularies.
            drafted: `[...]` drafts sent; may be an expectation, as all that follow.
            support: `[...]` support sizes of q summed over the drafts.
            pending: `[...]` ids sent that the device drew after the last round.
            asked: `[...]` requests for a row.

        Returns:
            `[...]` float32.
        """
        drafts = self.draft_bits(sizes, jnp.asarray(drafted, jnp.float32), support)
        return HEADER_BITS * (1.0 + jnp.asarray(asked, jnp.float32)) + drafts + pending * float(sizes.id_bits)

    def downlink_bits(self, sizes: Vocabularies, *, rejected: Array, asked: Array | float = 0.0) -> Array:
        """Bits that the edge sends in a round.

        Args:
            sizes: of the vocabularies.
            rejected: `[...]` whether a draft was rejected; may be a chance.
            asked: `[...]` rows asked for.

        Returns:
            `[...]` float32.
        """
        del asked
        return jnp.full(jnp.shape(rejected), HEADER_BITS + sizes.id_bits, jnp.float32)

    def stream_bits(self, sizes: Vocabularies, streamed: Array) -> Array:
        """Bits of `streamed [...]` tokens ahead of a downlink's next token, where there were no drafts."""
        return streamed * float(sizes.id_bits)

    def encode_uplink(self, uplink: Uplink, row: int, ids: DraftIds) -> bytes:
        """One row of an uplink as bytes. Leaves may be NumPy or JAX arrays."""
        writer, width = BitWriter(), ids.sizes.id_bits
        length = int(uplink.length[row])
        wanted = 0 if length else int(uplink.wanted[row])
        pending = -1 if uplink.pending is None else int(uplink.pending[row])
        streams = wanted > 1
        _put_header(writer, wanted if streams else length, _PENDING * (pending >= 0) + _STREAM * streams)
        if pending >= 0:
            writer.put(pending, width)
        for index in range(length):
            self._put_draft(writer, uplink, (row, index), ids)
        return writer.bytes()

    def decode_uplink(self, data: bytes, max_draft_length: int, ids: DraftIds) -> Uplink:
        """The uplink of one row, leaves `[1, ...]` NumPy.

        Raises:
            ValueError: the bytes are no such message.
        """
        reader, width = BitReader(data), ids.sizes.id_bits
        length, flags = _take_header(reader, _PENDING + _STREAM)
        wanted = 1
        if flags & _STREAM:
            length, wanted = 0, length
            if wanted < 2:
                raise ValueError(f"a message asks for a stream of {wanted} tokens, which are 2 at least")
        if length > max_draft_length:
            raise ValueError(f"a message holds {length} drafts, the session allows {max_draft_length}")
        pending = reader.one(width) if flags & _PENDING else -1
        fields = self._no_drafts(max_draft_length, ids.sizes)
        for index in range(length):
            for name, value in self._take_draft(reader, ids).items():
                fields[name][0, index] = value
        reader.end()
        if self.draws_on_device:
            fields["pending"] = np.asarray([pending], np.int32)
        whole = {"length": np.asarray([length], np.int32), "wanted": np.asarray([wanted], np.int32)}
        return Uplink(active=np.ones(1, bool), **whole, **fields)  # type: ignore[arg-type]

    def encode_downlink(self, downlink: Downlink, row: int, length: int, ids: DraftIds) -> bytes:
        """One row of an answer to `length` drafts as bytes; to none: streamed tokens are counted in their place."""
        writer = BitWriter()
        accepted, streamed = int(downlink.accepted[row]), int(downlink.num_streamed[row])
        _put_header(writer, accepted if length else streamed, _FAULT * bool(downlink.fault[row]))
        writer.put(np.asarray(downlink.streamed[row][:streamed]), ids.sizes.id_bits)
        self._put_answer(writer, downlink, row, accepted < length, ids.sizes)
        return writer.bytes()

    def decode_downlink(self, data: bytes, length: int, max_draft_length: int, ids: DraftIds) -> Downlink:
        """The answer to one row's `length` drafts of up to G, leaves `[1, ...]` NumPy.

        Raises:
            ValueError: the bytes are no such message.
        """
        reader, downlink = BitReader(data), self.blank_downlink(max_draft_length, ids)
        count, flags = _take_header(reader, _FAULT)
        if count > (length or max_draft_length):
            raise ValueError(f"an answer counts {count} tokens of at most {length or max_draft_length}")
        accepted, streamed = (count, 0) if length else (0, count)
        downlink.streamed[0, :streamed] = reader.take(streamed, ids.sizes.id_bits)  # type: ignore[index]
        fields = self._no_answer(ids.sizes)
        for name, value in self._take_answer(reader, accepted < length, ids.sizes).items():
            fields[name][0] = value
        reader.end()
        counts = {"accepted": np.asarray([accepted], np.int32), "num_streamed": np.asarray([streamed], np.int32)}
        return dataclasses.replace(downlink, fault=np.asarray([bool(flags)]), **counts, **fields)

    def blank_downlink(self, max_draft_length: int, ids: DraftIds) -> Downlink:
        """What `decode_downlink` gives, of no message: for its shapes."""
        none = np.zeros(1, np.int32)
        counts = {"accepted": none, "num_streamed": none, "streamed": np.zeros((1, max_draft_length), np.int32)}
        return Downlink(fault=np.zeros(1, bool), **counts, **self._no_answer(ids.sizes))  # type: ignore[arg-type]

    def _with_drafts(self, proposal: Proposal) -> dict[str, Array]:
        """What goes up beside the drafts' ids: values by field of `Uplink`."""
        del proposal
        return {}

    def _put_draft(self, writer: BitWriter, uplink: Uplink, at: tuple[int, int], ids: DraftIds) -> None:
        """Write the draft at (row, index)."""
        writer.put(int(uplink.tokens[at]), ids.sizes.id_bits)

    def _take_draft(self, reader: BitReader, ids: DraftIds) -> dict[str, Any]:
        """Read a draft: values by field of `Uplink`."""
        return {"tokens": reader.one(ids.sizes.id_bits)}

    def _no_drafts(self, max_draft_length: int, sizes: Vocabularies) -> dict[str, Any]:
        """The fields of an uplink `[1, G, ...]` before its drafts are read."""
        del sizes
        return {"tokens": np.zeros((1, max_draft_length), np.int32)}

    def _put_answer(self, writer: BitWriter, downlink: Downlink, row: int, rejected: bool, sizes: Vocabularies) -> None:
        """Write the next token, or what the device draws it from."""
        del rejected
        writer.put(int(downlink.next_token[row]), sizes.id_bits)

    def _take_answer(self, reader: BitReader, rejected: bool, sizes: Vocabularies) -> dict[str, Any]:
        """Read it: values by field of `Downlink`."""
        del rejected
        return {"next_token": reader.one(sizes.id_bits)}

    def _no_answer(self, sizes: Vocabularies) -> dict[str, Any]:
        """The fields of a downlink `[1, ...]` before the answer is read."""
        del sizes
        return {"next_token": np.zeros(1, np.int32)}


class EveryColumn(Payload, Protocol):
    """What schemes that send a number for every column of q do alike: the further column's id goes with a draft's."""

    def _put_draft(self, writer: BitWriter, uplink: Uplink, at: tuple[int, int], ids: DraftIds) -> None:
        super()._put_draft(writer, uplink, at, ids)
        if ids.further:
            assert uplink.repeated is not None
            writer.put(int(uplink.repeated[at]), ids.sizes.id_bits)

    def _take_draft(self, reader: BitReader, ids: DraftIds) -> dict[str, Any]:
        draft = super()._take_draft(reader, ids)
        return {**draft, "repeated": reader.one(ids.sizes.id_bits) if ids.further else 0}

    def _no_drafts(self, max_draft_length: int, sizes: Vocabularies) -> dict[str, Any]:
        none = super()._no_drafts(max_draft_length, sizes)
        return {**none, "repeated": np.zeros((1, max_draft_length), np.int32)}


def _put_header(writer: BitWriter, count: int, flags: int) -> None:
    writer.put(count, _COUNT_BITS)
    writer.put(flags, HEADER_BITS - _COUNT_BITS)


def _take_header(reader: BitReader, known: int) -> tuple[int, int]:
    """Count and flags of a message, which may be set where they are among the `known`."""
    count, flags = reader.one(_COUNT_BITS), reader.one(HEADER_BITS - _COUNT_BITS)
    if flags & ~known:
        raise ValueError(f"flags {flags} of a message mean nothing")
    return count, flags


def accepted_drafts(uplink: Uplink, log_prob: Array, log_weights: Array, noise: RoundNoise) -> Array:
    """Leading drafts `[B]` that rejection sampling accepts: x_i with probability min(1, p(x_i) / q(x_i)).

    Arguments as `Payload.verify`; `log_prob [B, G]` is log q of each draft.
    """
    drafts, most = log_weights.shape[1] - 1, uplink.tokens.shape[1]
    # Uniforms are drawn for G drafts whatever the window: padding must not change the text.
    uniforms = noise.uniforms(Use.ACCEPT, (most,))[:, :drafts]
    return gelato_kernels.accept(log_weights, uplink.tokens[:, :drafts], log_prob[:, :drafts], uplink.length, uniforms)


def draw_on_edge(
    uplink: Uplink, q: Array, log_weights: Array, noise: RoundNoise, ids: DraftIds
) -> tuple[Downlink, None]:
    """Verify where the edge knows all of q: it draws the residual, or the bonus token, itself.

    Arguments as `Payload.verify`; `q [B, G, Q]` are log weights.
    """
    drafts = log_weights.shape[1] - 1
    if q.shape[1] == 0:
        accepted, draft_row = jnp.zeros_like(uplink.length), jnp.zeros(log_weights.shape[::2])
    else:
        seen, repeated = q[:, :drafts], uplink.repeated
        column = ids.columns(uplink.tokens[:, :drafts])
        log_prob = jnp.take_along_axis(seen, column[..., None], axis=2)[..., 0] - gelato_kernels.entropy(seen).logsumexp
        accepted = accepted_drafts(uplink, log_prob, log_weights, noise)
        draft_row = ids.spread(row_at(q, accepted), None if repeated is None else row_at(repeated, accepted))
    target_row = row_at(log_weights, accepted)
    uniforms = noise.uniforms(Use.NEXT_TOKEN, (2,))
    drawn = gelato_kernels.sample_residual(target_row, draft_row, accepted == uplink.length, uniforms)
    return uplink.answer(accepted, drawn.token), None
