"""SLED's length exit: the confidence in the whole draft so far. See `base.LengthExit` for the call."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DraftSignal, LengthExit
from gelato_jax.control.length_exits import none
from gelato_jax.types import RoundPlan, number


def sled(threshold: ArrayLike = 0.5) -> LengthExit:
    """Stop if prod_{j<=i} max q_j < threshold, over the round's tokens (arXiv 2506.09397 as reported).

    The token that trips it is sent: dropping a token by what was seen of it would bend the distribution.

    Args:
        threshold: 0..1; the default is assumed.

    Returns:
        The exit.

    Raises:
        GelatoError: `threshold` is outside 0..1.
    """
    return LengthExit(params=number("threshold", threshold, low=0.0, high=1.0), rule=_SLED)


def _init(params: Array) -> Array:
    del params
    return jnp.ones((), jnp.float32)


def _start(params: Array, state: Array, plan: RoundPlan) -> Array:
    del params, plan
    return jnp.ones_like(state)


def _step(params: Array, state: Array, signal: DraftSignal) -> tuple[Array, Array]:
    confidence = state * signal.max_probability
    return confidence, confidence < params


_SLED = none().rule._replace(init=_init, start=_start, step=_step)
