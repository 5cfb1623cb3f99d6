"""Sampling rules: the draft's temperature as a function of its entropy. See `base.DraftSampling`."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DraftSampling, DraftSamplingRule
from gelato_jax.types import number, record


@record
class EntropyParams:
    """The numbers of `entropy`."""

    certain: Array  # [] factor at H = 0
    uncertain: Array  # [] factor as H grows
    half_nats: Array  # [] entropy halfway between


def fixed() -> DraftSampling:
    """Leave the temperature as it is."""
    return DraftSampling(params=(), rule=_FIXED)


def entropy(certain: ArrayLike = 1.0, uncertain: ArrayLike = 0.8, half_nats: ArrayLike = 2.0) -> DraftSampling:
    """A factor that moves from `certain` at H = 0 to `uncertain` as H grows, never past either.

    scale(H) = certain + (uncertain - certain) * H / (H + half_nats). All defaults are assumed.

    Args:
        certain: factor at H = 0, > 0.
        uncertain: factor as H grows, > 0.
        half_nats: entropy at which the factor is halfway, > 0.

    Returns:
        The rule.

    Raises:
        GelatoError: a number is out of its range.
    """
    smallest = 0.05  # keeps a scaled temperature away from 0, where the draft would turn greedy
    params = EntropyParams(
        certain=number("certain", certain, low=smallest),
        uncertain=number("uncertain", uncertain, low=smallest),
        half_nats=number("half_nats", half_nats, low=1e-3),
    )
    return DraftSampling(params=params, rule=_ENTROPY)


def _fixed_scale(params: tuple[()], entropy: Array) -> Array:
    del params
    return jnp.ones_like(entropy)


def _entropy_scale(params: EntropyParams, entropy: Array) -> Array:
    share = entropy / (entropy + params.half_nats)
    return params.certain + (params.uncertain - params.certain) * share


_FIXED = DraftSamplingRule(temperature_scale=_fixed_scale)
_ENTROPY = DraftSamplingRule(temperature_scale=_entropy_scale)
