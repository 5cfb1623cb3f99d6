"""`seeded` (ours): ids alone. Draft and target share their noise by absolute position, and equality is acceptance."""

from typing import ClassVar

from jax import Array

import gelato_kernels
from gelato_jax.payloads.base import Payload, Scheme
from gelato_jax.payloads.messages import Downlink, DraftIds, RoundNoise, Uplink, Vocabularies
from gelato_jax.types import record


@record
class Seeded(Payload):
    """The draft proposes argmax(log q + noise), the target its own argmax(log p + noise)."""

    scheme: ClassVar[Scheme] = "seeded"

    def verify(self, uplink: Uplink, log_weights: Array, noise: RoundNoise, ids: DraftIds) -> tuple[Downlink, None]:
        """Draw the target's own tokens; drafts that equal them are accepted."""
        del ids
        window, vocab_size = log_weights.shape[1:]
        tokens = gelato_kernels.gumbel_argmax(log_weights, noise.gumbel(window, vocab_size))
        match = gelato_kernels.match(tokens, uplink.tokens[:, : window - 1], uplink.length)
        return uplink.answer(match.num_accepted, match.next_token), None

    def draft_bits(self, sizes: Vocabularies, drafted: Array, support: Array | float) -> Array:
        """An id."""
        del support
        return drafted * float(sizes.id_bits)


def seeded() -> Seeded:
    """Ids alone: draft and target share their noise by absolute position, equality is acceptance."""
    return Seeded()
