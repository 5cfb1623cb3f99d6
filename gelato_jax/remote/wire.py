"""What both ends agree on when a session opens: the payload scheme, how the target is sampled, and limits."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from gelato_jax import payloads
from gelato_jax.decoding.records import Sampling
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import DraftIds, Payload
from gelato_jax.remote import edge_pb2 as pb

SESSION_BYTES = 16
"""Of a session's name: random, so that nobody guesses another's."""
MESSAGE_BYTES = 16 << 20
"""Most bytes of a message: eight rows of float32 over 262,144 ids and a prompt."""
_WHOLE = ("top_k", "quantized", "candidates")
"""Schemes whose number is a whole one."""


def describe_payload(payload: Payload, ids: DraftIds) -> pb.Payload:
    """A scheme with its number, and what the columns of q stand for."""
    numbers = [float(getattr(payload, field.name)) for field in dataclasses.fields(payload)]  # type: ignore[arg-type]
    known = [] if ids.known is None else np.asarray(ids.known).tolist()
    return pb.Payload(scheme=payload.scheme, number=numbers[0] if numbers else 0.0, known=known, further=ids.further)


def read_payload(message: pb.Payload, vocab_size: int) -> tuple[Payload, DraftIds]:
    """Undo `describe_payload`.

    Raises:
        GelatoError: an unknown scheme, a number out of its range, or ids that the target does not have.
    """
    if message.scheme not in payloads.SCHEMES:
        raise GelatoError(
            f"payload scheme {message.scheme!r} is unknown; this edge knows {', '.join(payloads.SCHEMES)}"
        )
    if not math.isfinite(message.number):
        raise GelatoError(f"the number of payload scheme {message.scheme} is {message.number}, must be finite")
    make = getattr(payloads, message.scheme)
    number = int(message.number) if message.scheme in _WHOLE else message.number
    payload = make(number) if message.scheme in (*_WHOLE, "top_p") else make()
    known = np.asarray(message.known, np.int64)
    if known.size and (np.any(np.diff(known) <= 0) or known[-1] >= vocab_size):
        raise GelatoError(f"the draft's ids must ascend and be below {vocab_size}, the target's")
    ids = DraftIds(
        known=jnp.asarray(known, jnp.int32) if known.size or message.further else None,
        vocab_size=vocab_size,
        further=message.further,
    )
    return payload, ids


def describe_sampling(sampling: Sampling, seed: int) -> pb.Sampling:
    """How logits become a distribution, and the seed that both ends draw from."""
    return pb.Sampling(
        temperature=float(sampling.temperature), top_k=int(sampling.top_k), top_p=float(sampling.top_p), seed=seed
    )


def read_sampling(message: pb.Sampling) -> Sampling:
    """Undo `describe_sampling`.

    Raises:
        GelatoError: a number is out of its range.
    """
    return Sampling.create(temperature=message.temperature, top_k=message.top_k, top_p=message.top_p)
