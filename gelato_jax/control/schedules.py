"""Controllers that know no energy: a fixed draft length, and the schedule of transformers.

Their prices say that tokens are worth something and nothing costs anything: a priced exit under
them never stops.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller, ControllerRule
from gelato_jax.control.estimator import Estimator
from gelato_jax.types import AcceptanceForecast, CostTable, Observation, RoundPlan, number


def static(draft_length: ArrayLike = 4) -> Controller:
    """Draft the same number of tokens every round, at most G.

    Args:
        draft_length: tokens, >= 0; 0 is pure target decoding. The default is assumed.

    Returns:
        The controller.

    Raises:
        GelatoError: `draft_length` is negative.
    """
    length = number("draft_length", draft_length, low=0, dtype=jnp.int32)
    return Controller(params=length, estimator=Estimator.create(), rule=_STATIC)


def hf_schedule(initial: ArrayLike = 5) -> Controller:
    """The heuristic of transformers' candidate generator: all accepted, 2 more; else 1 fewer, at least 1.

    Counted from what was drafted, so that the length never runs ahead of G or of a length exit.

    Args:
        initial: tokens of the first round, >= 1; transformers starts older releases with 5.

    Returns:
        The controller.

    Raises:
        GelatoError: `initial` is under 1.
    """
    length = number("initial", initial, low=1, dtype=jnp.int32)
    return Controller(params=length, estimator=Estimator.create(), rule=_HF_SCHEDULE)


def _free_plan(length: Array, cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    zero = jnp.zeros((), jnp.float32)
    return RoundPlan(
        draft_budget=jnp.minimum(length, cost_table.time_s.shape[0] - 1),
        token_value=jnp.ones((), jnp.float32),
        energy_price=zero,
        time_price=zero,
        acceptance_rate=forecast.rate,
    )


def _static_init(params: Array) -> tuple[()]:
    del params
    return ()


def _static_plan(params: Array, state: tuple[()], cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    del state
    return _free_plan(params, cost_table, forecast)


def _static_update(params: Array, state: tuple[()], outcome: Observation) -> tuple[()]:
    del params, outcome
    return state


def _hf_init(params: Array) -> Array:
    return jnp.array(params)  # a copy: states are donated, params are not


def _hf_plan(params: Array, state: Array, cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    del params
    return _free_plan(state, cost_table, forecast)


def _hf_update(params: Array, state: Array, outcome: Observation) -> Array:
    del params, state
    all_accepted = ~outcome.rejected
    return jnp.where(all_accepted, outcome.drafted + 2, jnp.maximum(outcome.drafted - 1, 1)).astype(jnp.int32)


def _no_queue(params: Any, state: Any) -> Array:
    del params, state
    return jnp.zeros((), jnp.float32)


_STATIC = ControllerRule(init=_static_init, plan=_static_plan, update=_static_update, queue=_no_queue)
_HF_SCHEDULE = ControllerRule(init=_hf_init, plan=_hf_plan, update=_hf_update, queue=_no_queue)
