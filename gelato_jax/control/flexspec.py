"""FlexSpec: the draft length from the channel and an energy budget, one round at a time."""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller, ControllerRule
from gelato_jax.control.estimator import Estimator
from gelato_jax.types import AcceptanceForecast, CostTable, Observation, RoundPlan, number


def flexspec(power_budget_w: ArrayLike = math.inf) -> Controller:
    """Draft length from channel state and energy budget (arXiv 2601.00644 as reported; its full text was not read).

    gamma = argmax of N(g)/T(g) among the g with E(g) <= Pbar*T(g) in this round; if there is none, the g of
    least E/T. Myopic: no queue, so what a round saves is lost to the next, and what it overspends is forgotten.
    Prices: 1 a token, N/T of the chosen length a second. An exit that is `priced` looks at these alone and may
    draft more than gamma; with any other, gamma is the most.

    Args:
        power_budget_w: Pbar, >= 0; inf for no cap.

    Returns:
        The controller.

    Raises:
        GelatoError: `power_budget_w` is negative.
    """
    budget = number("power_budget_w", power_budget_w, low=0.0, finite=False)
    return Controller(params=budget, estimator=Estimator.create(), rule=_FLEXSPEC)


def _init(params: Array) -> tuple[()]:
    del params
    return ()


def _plan(params: Array, state: tuple[()], cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    del state
    time_s, energy_j = cost_table.time_s, cost_table.energy_j
    rate = cost_table.tokens(AcceptanceForecast.independent(forecast.rate, time_s.shape[0] - 1)) / time_s
    allowed = energy_j <= params * time_s
    fastest, thriftiest = jnp.argmax(jnp.where(allowed, rate, -jnp.inf)), jnp.argmin(energy_j / time_s)
    best = jnp.where(allowed.any(), fastest, thriftiest).astype(jnp.int32)
    one, zero = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    return RoundPlan(
        draft_budget=best, token_value=one, energy_price=zero, time_price=rate[best], acceptance_rate=forecast.rate
    )


def _update(params: Array, state: tuple[()], outcome: Observation) -> tuple[()]:
    del params, outcome
    return state


_FLEXSPEC = ControllerRule(
    init=_init,
    plan=_plan,
    update=_update,
    queue=lambda params, state: jnp.zeros(()),
    power_budget=lambda params: params,
)
