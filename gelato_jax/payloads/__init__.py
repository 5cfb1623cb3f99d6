"""Payloads: what of a draft travels between device and edge, and how the token after a rejection is drawn.

Each scheme is one file: its messages to and from bytes, their bits, and the device's and the edge's half of
verification. `base.Payload` says when each function is called.
"""

from gelato_jax.payloads.base import SCHEMES, Payload, Scheme
from gelato_jax.payloads.candidates import candidates
from gelato_jax.payloads.full import full
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
from gelato_jax.payloads.quantized import quantized
from gelato_jax.payloads.scalar import scalar
from gelato_jax.payloads.seeded import seeded
from gelato_jax.payloads.truncated import top_k, top_p

__all__ = [
    "SCHEMES",
    "Downlink",
    "DraftIds",
    "Payload",
    "Proposal",
    "Resolution",
    "RoundNoise",
    "Scheme",
    "Uplink",
    "Vocabularies",
    "candidates",
    "full",
    "quantized",
    "row_at",
    "scalar",
    "seeded",
    "top_k",
    "top_p",
]
