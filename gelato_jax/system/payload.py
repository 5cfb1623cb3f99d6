"""What a round sends: how q is shaped before sampling, and the bits of each scheme up and down.

Framing and headers are not counted, except the verdict. q always travels as float32, or as the
integers that it was sampled from: rounding it after sampling would bend the output's law.
"""

from typing import Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.types import number, record, static

Scheme = Literal["full", "top_p", "top_k", "quantized", "scalar", "candidates", "seeded"]

PROBABILITY_BITS = 32
"""One float32 probability."""
VERDICT_BITS = 8
"""How many drafts were accepted; assumed one byte."""


@record
class Payload:
    """A payload scheme and its numbers; only the numbers that the scheme uses matter.

    full: id and q over the draft's vocabulary. top_p, top_k: (id, q) pairs of the support, the
    drawn token first. quantized: id and q as `bits`-bit integers. scalar: id and q(x); a rejection
    brings one target row down and the device draws from the residual. candidates: as scalar, but a
    rejection brings `candidates` pairs (y, p(y)) first, and a row only if none is accepted. seeded:
    ids alone, noise shared by position.
    """

    top_p: Array  # [] kept mass of q (top_p), else 1
    top_k: Array  # [] int32 kept tokens of q (top_k), else 0
    bits: Array  # [] int32 bits per quantised probability (quantized), else 0
    candidates: Array  # [] int32 pairs sent after a rejection (candidates), else 0
    scheme: Scheme = static()

    @property
    def draws_on_device(self) -> bool:
        """Whether the device draws the token after a rejection; its id goes up with the next round."""
        return self.scheme in ("scalar", "candidates")

    def uplink_bits(
        self,
        *,
        drafted: Array,
        support_sum: Array | float,
        vocab_size: int,
        draft_vocab_size: int,
        pending_ids: Array | int = 0,
    ) -> Array:
        """Bits of one round's upload.

        Args:
            drafted: [...] tokens sent.
            support_sum: [...] support sizes of q summed over the sent tokens (top_p, top_k).
            vocab_size: target ids, which every id is coded over.
            draft_vocab_size: entries of q (full, quantized).
            pending_ids: [...] ids drawn on the device that the edge has not seen.

        Returns:
            [...] float32 bits.
        """
        id_width = id_bits(vocab_size)
        drafted = jnp.asarray(drafted, jnp.float32)
        match self.scheme:
            case "full":
                bits = drafted * float(id_width + PROBABILITY_BITS * draft_vocab_size)
            case "quantized":
                bits = drafted * (id_width + self.bits.astype(jnp.float32) * draft_vocab_size)
            case "top_p" | "top_k":
                bits = jnp.asarray(support_sum, jnp.float32) * float(id_width + PROBABILITY_BITS)
            case "scalar" | "candidates":
                bits = drafted * float(id_width + PROBABILITY_BITS)
            case "seeded":
                bits = drafted * float(id_width)
        return bits + jnp.asarray(pending_ids, jnp.float32) * float(id_width)

    def downlink_bits(self, *, rejected: Array, rows_sent: Array, vocab_size: int) -> Array:
        """Bits of one round's answer: the verdict, and the next token or what it is drawn from.

        Args:
            rejected: [...] whether a draft was rejected: bool, or a probability for an expectation.
            rows_sent: [...] target rows asked for: 1 on a rejection under `scalar`, 1 under
                `candidates` if none was accepted, else 0. May be an expectation.
            vocab_size: target ids.

        Returns:
            [...] float32 bits.
        """
        id_width = float(id_bits(vocab_size))
        if not self.draws_on_device:
            return jnp.full(jnp.shape(rejected), VERDICT_BITS + id_width, jnp.float32)
        rejected = jnp.asarray(rejected, jnp.float32)
        pairs = self.candidates.astype(jnp.float32) * (id_width + PROBABILITY_BITS)
        rows = jnp.asarray(rows_sent, jnp.float32) * float(PROBABILITY_BITS * vocab_size)
        return VERDICT_BITS + (1.0 - rejected) * id_width + rejected * pairs + rows

    def row_probability(self, rejected: Array, acceptance: Array | float) -> Array:
        """Chance that a round asks for a target row.

        A candidate y ~ p is accepted with probability 1 - beta (the residual's mass).

        Args:
            rejected: [...] chance that a draft is rejected.
            acceptance: [] per-token acceptance, beta.

        Returns:
            [...] probability.
        """
        if self.scheme == "scalar":
            return rejected
        if self.scheme == "candidates":
            return rejected * acceptance ** self.candidates.astype(jnp.float32)
        return jnp.zeros_like(rejected)


def id_bits(vocab_size: int) -> int:
    """Bits of one token id, ceil(log2 V)."""
    return (vocab_size - 1).bit_length()


def _payload(
    scheme: Scheme,
    *,
    top_p: ArrayLike = 1.0,
    top_k: ArrayLike = 0,
    bits: ArrayLike = 0,
    candidates: ArrayLike = 0,
) -> Payload:
    return Payload(
        scheme=scheme,
        top_p=number("payload top_p", top_p, low=0.0, high=1.0),
        top_k=number("payload top_k", top_k, low=1 if scheme == "top_k" else 0, dtype=jnp.int32),
        bits=number("payload bits", bits, low=2 if scheme == "quantized" else 0, high=16, dtype=jnp.int32),
        candidates=number("payload candidates", candidates, low=0, dtype=jnp.int32),
    )


def full() -> Payload:
    """All of q, over the draft's vocabulary; the edge draws the residual."""
    return _payload("full")


def top_p(mass: ArrayLike) -> Payload:
    """Cut q to its top-p set and renormalise, then sample (arXiv 2512.16273).

    Args:
        mass: kept mass, (0, 1].
    """
    return _payload("top_p", top_p=mass)


def top_k(count: ArrayLike) -> Payload:
    """Cut q to its `count` likeliest tokens and renormalise, then sample.

    Args:
        count: kept tokens, >= 1.
    """
    return _payload("top_k", top_k=count)


def quantized(bits: ArrayLike) -> Payload:
    """Round q to integers of `bits` bits, then sample (arXiv 2507.00605).

    Args:
        bits: 2..16.
    """
    return _payload("quantized", bits=bits)


def scalar() -> Payload:
    """The id and q(x) go up; after a rejection one target row comes down (arXiv 2507.12000)."""
    return _payload("scalar")


def candidates(count: ArrayLike) -> Payload:
    """As `scalar`, but a rejection brings `count` draws of p first; exact, about a kilobit.

    Args:
        count: pairs (y, p(y)) sent after a rejection.
    """
    return _payload("candidates", candidates=count)


def seeded() -> Payload:
    """Ids alone: draft and target share their noise by absolute position, equality is acceptance."""
    return _payload("seeded")
