"""`candidates` (ours): as `scalar`, but after a rejection the edge sends some draws of p in place of its row.

The device accepts a draw y with probability max(0, 1 - q(y) / p(y)), and takes the first: p(y) times that is
proportional to max(p(y) - q(y), 0), so what it takes has the residual's distribution. If none is accepted it asks for
the row and draws from it, which has that distribution too. Exact, and about a kilobit in place of megabits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import gelato_kernels
from gelato_jax.errors import GelatoError
from gelato_jax.keys import Use
from gelato_jax.payloads.base import HEADER_BITS, PROBABILITY_BITS, Scheme
from gelato_jax.payloads.bits import BitReader, BitWriter
from gelato_jax.payloads.messages import Downlink, DraftIds, Proposal, Resolution, RoundNoise, Uplink, Vocabularies
from gelato_jax.payloads.scalar import Scalar, draw_residual
from gelato_jax.types import record, static

_MOST = 1024
"""Pairs: an edge makes room for as many as a device asks for."""


@record
class Candidates(Scalar):
    """Ids and float32 log q(x) up; (y, p(y)) pairs down, and a row where none is accepted."""

    scheme: ClassVar[Scheme] = "candidates"
    keeps_row: ClassVar[bool] = True
    count: int = static()  # M pairs after a rejection

    def verify(
        self, uplink: Uplink, log_weights: Array, noise: RoundNoise, ids: DraftIds
    ) -> tuple[Downlink, Array | None]:
        """As `scalar`, with M draws of p, which only a rejection needs, in place of the row.

        In greedy text they are one token, and need no M sweeps over the row.
        """
        downlink, _ = super().verify(uplink, log_weights, noise, ids)
        row, (rows, count) = downlink.row, (uplink.length.shape[0], self.count)
        assert row is not None

        def draw() -> tuple[Array, Array]:
            uniforms = noise.uniforms(Use.CANDIDATES, (count, 3))[..., :2]
            tokens = jax.vmap(gelato_kernels.sample, (None, 1), 1)(row, uniforms)
            log_prob = jnp.take_along_axis(row, tokens, axis=1) - gelato_kernels.entropy(row).logsumexp[:, None]
            return tokens, jnp.exp(log_prob)

        def same(token: Array) -> tuple[Array, Array]:
            return jnp.broadcast_to(token[:, None], (rows, count)), jnp.ones((rows, count), jnp.float32)

        tokens, prob = lax.switch(
            jnp.where((downlink.accepted < uplink.length).any(), jnp.where(noise.greedy, 1, 2), 0),
            [lambda: same(jnp.zeros_like(uplink.length)), lambda: same(gelato_kernels.entropy(row).argmax), draw],
        )
        return dataclasses.replace(downlink, row=None, candidates=tokens, candidate_prob=prob), row

    def resolve(
        self, proposal: Proposal, downlink: Downlink, noise: RoundNoise, ids: DraftIds, ask: Callable[[], Array]
    ) -> Resolution:
        """Take the first accepted candidate, or ask for the row."""
        assert downlink.candidates is not None
        assert downlink.candidate_prob is not None
        is_bonus = downlink.accepted == proposal.length
        if proposal.tokens.shape[1] == 0:
            return Resolution(next_token=downlink.next_token, asked=jnp.zeros_like(is_bonus))
        candidates, p = downlink.candidates, downlink.candidate_prob

        def take() -> tuple[Array, Array]:
            row, repeated = proposal.at(downlink.accepted)
            log_q = ids.spread(row, repeated) - gelato_kernels.entropy(row).logsumexp[:, None]
            q = jnp.exp(jnp.take_along_axis(log_q, candidates, axis=1))
            accepted = noise.uniforms(Use.CANDIDATES, (self.count, 3))[..., 2] * p < p - q
            first = jnp.take_along_axis(candidates, jnp.argmax(accepted, axis=1)[:, None], axis=1)[:, 0]
            return jnp.where(is_bonus, downlink.next_token, first), ~is_bonus & ~accepted.any(axis=1)

        token, none = lax.cond(is_bonus.all(), lambda: (downlink.next_token, jnp.zeros_like(is_bonus)), take)
        asked = none & ~downlink.fault
        drawn = lax.cond(
            asked.any(), lambda: draw_residual(proposal, downlink, ask(), noise, ids), lambda: jnp.zeros_like(token)
        )
        return Resolution(next_token=jnp.where(asked, drawn, token), asked=asked)

    def asked_probability(self, rejected: Array, acceptance: Array) -> Array:
        """A draw y of p is accepted with chance 1 - beta, the residual's mass: none of M does with beta^M."""
        return rejected * acceptance ** float(self.count)

    def downlink_bits(self, sizes: Vocabularies, *, rejected: Array, asked: Array | float = 0.0) -> Array:
        """An id, or pairs after a rejection, and the row that was asked for."""
        rejected = jnp.asarray(rejected, jnp.float32)
        pairs = float(self.count * (sizes.id_bits + PROBABILITY_BITS))
        rows = jnp.asarray(asked, jnp.float32) * float(PROBABILITY_BITS * sizes.target)
        return HEADER_BITS + (1.0 - rejected) * float(sizes.id_bits) + rejected * pairs + rows

    def encode_row(self, row: np.ndarray) -> bytes:
        """The target's row `[V]` that a device asked for."""
        writer = BitWriter()
        writer.put_floats(row)
        return writer.bytes()

    def decode_row(self, data: bytes, ids: DraftIds) -> np.ndarray:
        """The row `[V]` of a message.

        Raises:
            ValueError: the bytes are no such message.
        """
        reader = BitReader(data)
        row = reader.floats(ids.vocab_size)
        reader.end()
        return row

    def _put_rejection(self, writer: BitWriter, downlink: Downlink, row: int, sizes: Vocabularies) -> None:
        assert downlink.candidates is not None
        assert downlink.candidate_prob is not None
        writer.put(np.asarray(downlink.candidates[row]), sizes.id_bits)
        writer.put_floats(np.asarray(downlink.candidate_prob[row]))

    def _take_rejection(self, reader: BitReader, sizes: Vocabularies) -> dict[str, Any]:
        tokens = reader.take(self.count, sizes.id_bits)
        return {"candidates": tokens, "candidate_prob": reader.floats(self.count)}

    def _no_rejection(self, sizes: Vocabularies) -> dict[str, Any]:
        del sizes
        shape = (1, self.count)
        return {"candidates": np.zeros(shape, np.int32), "candidate_prob": np.ones(shape, np.float32)}


def candidates(count: int) -> Candidates:
    """As `scalar`, but a rejection brings `count` draws of p first; exact, about a kilobit.

    Args:
        count: pairs (y, p(y)) sent after a rejection, a whole number from 1 to 1024; it shapes the program.

    Raises:
        GelatoError: `count` is no such number.
    """
    if not isinstance(count, int | np.integer) or isinstance(count, bool) or not 1 <= count <= _MOST:
        raise GelatoError(f"payload candidates is {count!r}, must be a whole number from 1 to {_MOST}")
    return Candidates(count=int(count))
