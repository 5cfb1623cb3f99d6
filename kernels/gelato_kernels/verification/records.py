"""What goes into a verification and what comes out."""

from typing import NamedTuple

from jax import Array


class VerifyUniforms(NamedTuple):
    """Noise of one verification; no uniform serves two purposes, or the distribution breaks."""

    accept: Array  # [B, K] float32, one per draft token
    token: Array  # [B, 2] float32, for the next token: block, then token


class Support(NamedTuple):
    """Distributions that are zero outside a few tokens, as a link that truncates them sends them."""

    ids: Array  # [B, K, M] int32; an unused place holds any id of the vocabulary and probability 0
    probs: Array  # [B, K, M] float32, >= 0, each id's once; a row sums to 1


class ResidualSample(NamedTuple):
    """A token drawn from the residual distribution."""

    token: Array  # [B] int32
    mass: Array  # [B] float32, sum max(p - q, 0) = 1 - acceptance probability of the position; 1 for a bonus


class Verification(NamedTuple):
    """What the target made of a draft: `num_accepted` draft tokens are accepted and `next_token` follows them."""

    num_accepted: Array  # [B] int32, 0..draft_length
    next_token: Array  # [B] int32
    is_bonus: Array  # [B] bool, True where every draft token was accepted
    residual_mass: Array  # [B] float32, mass of the distribution next_token was drawn from, before it is normalised
