"""UCB-SpecStop: the ratio-optimal draft length under an optimistic acceptance."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller, ControllerRule
from gelato_jax.control.estimator import Estimator
from gelato_jax.types import AcceptanceForecast, CostTable, Observation, RoundPlan, number, record


@record
class VerifiedDrafts:
    """What verification showed so far, never forgotten."""

    successes: Array  # [] int32 accepted drafts
    failures: Array  # [] int32 rejections; drafts after one were never tested
    rounds: Array  # [] int32


def ucb_specstop(exploration: ArrayLike = 1.0) -> Controller:
    """Ratio-type stopping in delay with UCB on acceptance (arXiv 2606.20591 as reported; full text not read).

    gamma = argmax of N(g; min(1, s/n + c sqrt(log(1 + rounds) / (2n)))) / T(g), n = s + f tested drafts; 1 while
    n = 0. The bonus is Hoeffding's (assumed). Knows no energy. Prices: 1 a token, that ratio a second.

    Args:
        exploration: c, >= 0; the default is assumed.

    Returns:
        The controller; the estimator's discounted estimate is for exits alone.

    Raises:
        GelatoError: `exploration` is negative.
    """
    return Controller(params=number("exploration", exploration, low=0.0), estimator=Estimator.create(), rule=_RULE)


def _init(params: Array) -> VerifiedDrafts:
    return VerifiedDrafts(successes=jnp.int32(0), failures=jnp.int32(0), rounds=jnp.int32(0))


def _plan(params: Array, state: VerifiedDrafts, cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    tested = (state.successes + state.failures).astype(jnp.float32)
    bonus = params * jnp.sqrt(jnp.log1p(state.rounds.astype(jnp.float32)) / (2.0 * jnp.maximum(tested, 1.0)))
    optimistic = jnp.where(tested > 0, jnp.minimum(state.successes / jnp.maximum(tested, 1.0) + bonus, 1.0), 1.0)
    believed = AcceptanceForecast.independent(optimistic, cost_table.time_s.shape[0] - 1)
    rate = cost_table.tokens(believed) / cost_table.time_s
    best, one, zero = jnp.argmax(rate).astype(jnp.int32), jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    return RoundPlan(
        draft_budget=best, token_value=one, energy_price=zero, time_price=rate[best], acceptance_rate=forecast.rate
    )


def _update(params: Array, state: VerifiedDrafts, outcome: Observation) -> VerifiedDrafts:
    failures = state.failures + outcome.rejected
    return VerifiedDrafts(successes=state.successes + outcome.accepted, failures=failures, rounds=state.rounds + 1)


_RULE = ControllerRule(init=_init, plan=_plan, update=_update, queue=lambda params, state: jnp.zeros(()))
