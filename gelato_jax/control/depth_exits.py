"""Depth exits: how many layers a token deserves. See `base.DepthExit` for the call."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DepthExit, DepthExitRule, DepthSignal
from gelato_jax.control.calibration import deeper_gain
from gelato_jax.types import number


def fixed(exit: ArrayLike = -1) -> DepthExit:
    """Always compute to the same exit.

    Args:
        exit: index of the exit; negative counts from the last. `DepthExit.check` holds it against a draft's exits.

    Returns:
        The exit rule.

    Raises:
        GelatoError: `exit` is no whole number.
    """
    return DepthExit(params=number("exit", exit, dtype=jnp.int32), rule=_FIXED)


def entropy(threshold_nats: ArrayLike = 1.0) -> DepthExit:
    """Low entropy: stop computing layers; high entropy: go deeper (a digest of arXiv 2605.10124).

    Args:
        threshold_nats: entropy above which one more segment is computed; the default is assumed.

    Returns:
        The exit rule.

    Raises:
        GelatoError: `threshold_nats` is negative.
    """
    return DepthExit(params=number("threshold_nats", threshold_nats, low=0.0), rule=_ENTROPY)


def priced() -> DepthExit:
    """Go deeper while the gain in acceptance is worth the layers (ours).

    On iff V * A_{i-1} * (E[acceptance at the next exit] - E[acceptance here]) exceeds
    Q * e + (V * theta - Q * Pbar) * t, with e, t the cost of the segment; prices are the plan's.
    """
    return DepthExit(params=(), rule=_PRICED)


def _fixed_deeper(params: Array, signal: DepthSignal) -> Array:
    return signal.exit < jnp.where(params < 0, params + signal.last_exit + 1, params)


def _fixed_check(params: Array, num_exits: int) -> None:
    number(f"depth exit of a draft with {num_exits} exits", params, low=-num_exits, high=num_exits - 1, dtype=jnp.int32)


def _entropy_deeper(params: Array, signal: DepthSignal) -> Array:
    return signal.entropy > params


def _priced_deeper(params: tuple[()], signal: DepthSignal) -> Array:
    del params
    plan = signal.plan
    gain = deeper_gain(signal.calibration, signal.entropy, signal.exit, plan.acceptance_level)
    cost = plan.energy_price * signal.segment_j + plan.time_price * signal.segment_s
    return plan.token_value * signal.survival * gain >= cost


_FIXED = DepthExitRule(deeper=_fixed_deeper, check=_fixed_check)
_ENTROPY = DepthExitRule(deeper=_entropy_deeper)
_PRICED = DepthExitRule(deeper=_priced_deeper)
