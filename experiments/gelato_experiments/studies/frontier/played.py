"""A round-level policy, played: a controller that looks its draft length up.

What a linear program promises of a policy supposes rounds that do not depend on one another. Text does: a long
draft uses up the streak that made it pay. Playing the policy says what it is worth.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.control import Controller, Estimator
from gelato_jax.control.base import ControllerRule
from gelato_jax.types import AcceptanceForecast, CostTable, Observation, RoundPlan, record

_GOLDEN = 0.6180339887  # its multiples, modulo 1, fill 0..1 evenly: draws that depend on nothing


@record
class LookupParams:
    """A policy over R bins of the uplink's rate and S bins of the row's rejection level."""

    rate_edges: Array  # bit/s, ascending
    level_edges: Array  # [S-1] ascending
    first_rejection: Array  # [] of the calibration, at a round's first place: levels are read off forecasts by it
    cumulative: Array  # [R, S, A] chance of a draft length of at most a


def lookup(
    policy: np.ndarray, rate_edges: np.ndarray, level_edges: np.ndarray, first_acceptance: float, estimator: Estimator
) -> Controller:
    """A controller that draws its draft length from a table.

    Args:
        policy: `[R, S, A]` chance of each length 0..A-1.
        rate_edges: `[R - 1]` inner edges of the bins of the rate, bit/s.
        level_edges: `[S - 1]` of the rejection level.
        first_acceptance: acceptance of a round's first draft by the row's calibration.
        estimator: of the level.
    """
    params = LookupParams(
        rate_edges=jnp.asarray(rate_edges, jnp.float32),
        level_edges=jnp.asarray(level_edges, jnp.float32),
        first_rejection=jnp.asarray(1.0 - first_acceptance, jnp.float32),
        cumulative=jnp.asarray(np.cumsum(policy, axis=-1), jnp.float32),
    )
    return Controller(params=params, estimator=estimator, rule=_RULE)


def _plan(params: LookupParams, rounds: Array, cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    level = (1.0 - forecast.survival[1]) / params.first_rejection
    chances = params.cumulative[jnp.sum(cost_table.uplink_bps > params.rate_edges), jnp.sum(level > params.level_edges)]
    drawn = jnp.mod(rounds.astype(jnp.float32) * _GOLDEN, 1.0)
    zero = jnp.zeros((), jnp.float32)
    return RoundPlan(
        draft_budget=jnp.sum(drawn >= chances[:-1]).astype(jnp.int32),
        token_value=zero,
        energy_price=zero,
        time_price=zero,
        acceptance_rate=forecast.rate,
    )


def _update(params: LookupParams, rounds: Array, outcome: Observation) -> Array:
    del params, outcome
    return rounds + 1


_RULE = ControllerRule(
    init=lambda params: jnp.zeros((), jnp.int32),
    plan=_plan,
    update=_update,
    queue=lambda params, rounds: jnp.zeros((), jnp.float32),
)
