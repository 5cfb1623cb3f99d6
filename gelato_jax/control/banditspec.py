"""BanditSpec: every draft length is an arm of a bandit, paid in tokens per second."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller, ControllerRule
from gelato_jax.control.estimator import Estimator
from gelato_jax.types import AcceptanceForecast, Compensated, CostTable, Observation, RoundPlan, number, record

ARMS = 33  # lengths 0..32, the longest draft that settings allow


@record
class ArmTotals:
    """Sums of each arm's own rounds, by the length that was drafted."""

    rounds: Array  # [ARMS] int32
    tokens: Array  # [ARMS] int32
    seconds: Compensated  # [ARMS]


def banditspec(exploration: ArrayLike = 0.5) -> Controller:
    """UCB over draft lengths (UCBSpec, arXiv 2505.15141). Knows no energy, and no model of acceptance.

    gamma = argmax over 0..G of sum(N)/sum(T) + c g/T(g) sqrt(log n / n_g): an arm's tokens span g, hence the scale.
    n_g counts the arm's own rounds (the public code sums over arms). An untried arm comes first in its turn, each
    (G+1)-th round: a length that an exit never lets happen costs that round, not all. Prices: 1 a token, arm's rate.

    `exploration` is c >= 0 (else GelatoError): 1/2 bounds the deviation of a reward that spans 1 (UCB1-Tuned).
    """
    return Controller(params=number("exploration", exploration, low=0.0), estimator=Estimator.create(), rule=_RULE)


def _init(params: Array) -> ArmTotals:
    seconds = Compensated(high=jnp.zeros(ARMS, jnp.float32), low=jnp.zeros(ARMS, jnp.float32))
    return ArmTotals(rounds=jnp.zeros(ARMS, jnp.int32), tokens=jnp.zeros(ARMS, jnp.int32), seconds=seconds)


def _plan(params: Array, state: ArmTotals, cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    arms = cost_table.time_s.shape[0]
    own, length, total = state.rounds[:arms], jnp.arange(arms, dtype=jnp.int32), jnp.sum(state.rounds)
    rate = jnp.where(own > 0, state.tokens[:arms] / jnp.where(own > 0, state.seconds.high[:arms], 1.0), 0.0)
    spread = jnp.sqrt(jnp.log(jnp.maximum(total, 1).astype(jnp.float32)) / jnp.maximum(own, 1))
    untried = jnp.where(length == total % arms, jnp.inf, -jnp.inf)
    score = jnp.where(own > 0, rate + params * length / cost_table.time_s * spread, untried)
    best, one, zero = jnp.argmax(score).astype(jnp.int32), jnp.ones(()), jnp.zeros(())
    return RoundPlan(
        draft_budget=best, token_value=one, energy_price=zero, time_price=rate[best], acceptance_rate=forecast.rate
    )


def _update(params: Array, state: ArmTotals, outcome: Observation) -> ArmTotals:
    pulled = (jnp.arange(ARMS) == outcome.drafted).astype(jnp.int32)
    seconds = state.seconds.add(pulled * outcome.time_s)
    return ArmTotals(rounds=state.rounds + pulled, tokens=state.tokens + pulled * outcome.tokens, seconds=seconds)


_RULE = ControllerRule(init=_init, plan=_plan, update=_update, queue=lambda params, state: jnp.zeros(()))
