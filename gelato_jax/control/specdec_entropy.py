"""SpecDec++'s length exit with acceptance read from the entropy. See `base.LengthExit` for the call."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DraftSignal, LengthExit
from gelato_jax.control.calibration import acceptance_at
from gelato_jax.control.length_exits import none
from gelato_jax.types import RoundPlan, number


def specdec_entropy(threshold: ArrayLike = 0.7) -> LengthExit:
    """Stop if 1 - prod_{j<=i} alpha(H_j) > h: a refusal among the drafts so far is that likely (arXiv 2405.19715).

    Simplified: SpecDec++ trains a head that predicts each token's acceptance; here it is the calibrated alpha(H) at
    the row's level (`calibration.acceptance_at`). The token that trips it is sent: whether a token goes may not
    depend on what followed its draw.

    Args:
        threshold: h, 0..1; the default is the paper's.

    Returns:
        The exit.

    Raises:
        GelatoError: `threshold` is outside 0..1.
    """
    return LengthExit(params=number("threshold", threshold, low=0.0, high=1.0), rule=_SPECDEC_ENTROPY)


def _init(params: Array) -> Array:
    del params
    return jnp.ones((), jnp.float32)


def _start(params: Array, state: Array, plan: RoundPlan) -> Array:
    del params, plan
    return jnp.ones_like(state)


def _step(params: Array, state: Array, signal: DraftSignal) -> tuple[Array, Array]:
    rate = signal.plan.acceptance_level
    survival = state * acceptance_at(signal.calibration, signal.entropy, signal.exit, rate)
    return survival, 1.0 - survival > params


_SPECDEC_ENTROPY = none().rule._replace(init=_init, start=_start, step=_step)
