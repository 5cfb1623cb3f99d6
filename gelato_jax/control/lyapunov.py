"""Drift-plus-penalty controllers: an energy queue prices joules, and the best draft length is searched for.

Both keep the queue Q' = max(Q + E - allowance, 0) in compensated arithmetic, so that on every path,
however long, sum(E) <= sum(allowance) + Q_end - Q_start. The queue persists across requests.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller, ControllerRule
from gelato_jax.control.estimator import Estimator
from gelato_jax.types import AcceptanceForecast, Compensated, Observation, Outlook, RoundPlan, number, record


@record
class LyapunovParams:
    """The numbers of a drift-plus-penalty rule; a round's allowance is energy_budget_j + power_budget_w * T."""

    penalty_weight: Array  # [] V: J^2 a token (ratio), J^2 a token/s (gelato)
    energy_budget_j: Array  # [] joules allowed a round
    power_budget_w: Array  # [] watts allowed; inf: no cap


@record
class LyapunovState:
    """Queue and running totals."""

    queue: Compensated  # [] J, >= 0
    tokens: Compensated  # [] sum(N)
    seconds: Compensated  # [] sum(T)


def ratio(
    *, power_budget_w: ArrayLike = math.inf, penalty_weight: ArrayLike = 10.0, estimator: Estimator | None = None
) -> Controller:
    """Most tokens per second, sum(N)/sum(T), under a cap on mean power, sum(E)/sum(T) <= Pbar. The default.

    Q' = max(Q + E - Pbar*T, 0), theta = sum(N)/sum(T) so far,
    gamma = argmax over 0..G of V*(N - theta*T) - Q*(E - Pbar*T)
    (renewal systems, Neely, arXiv 1011.5942). Before the first round theta is the best N/T of the
    outlook. Prices: V a token, Q a joule, V*theta - Q*Pbar a second.

    A larger V comes closer to the optimum (the gap falls as 1/V) and takes longer to settle (the queue
    settles near V times the marginal tokens per joule).

    Args:
        power_budget_w: Pbar, >= 0; inf for no cap. See `check_power_budget`.
        penalty_weight: V, J^2 per token, >= 0; the default is assumed.
        estimator: of acceptance; `Estimator.create()` if not given.

    Returns:
        The controller.

    Raises:
        ValueError: a number is out of its range.
    """
    params = LyapunovParams(
        penalty_weight=number("penalty_weight", penalty_weight, low=0.0),
        energy_budget_j=number("energy_budget_j", 0.0),
        power_budget_w=number("power_budget_w", power_budget_w, low=0.0),
    )
    return Controller(params=params, estimator=estimator or Estimator.create(), rule=_RATIO)


def gelato(
    *,
    energy_budget_j: ArrayLike | None = None,
    power_budget_w: ArrayLike | None = None,
    penalty_weight: ArrayLike = 10.0,
    estimator: Estimator | None = None,
) -> Controller:
    """The form reported of the paper (arXiv 2605.10124, equation 7 and algorithm 1).

    Q' = max(Q + E - Ebar, 0), gamma = argmax over 0..G of V*(N/T)(gamma) - Q*E(gamma).
    Whether Ebar is per round or per second is not settled, so both are offered: `energy_budget_j`
    allows that much a round, `power_budget_w` allows Pbar*T, T the round's own length. Prices, from
    the objective made linear at the chosen gamma: V/T a token, Q a joule, V*N/T^2 a second.

    Args:
        energy_budget_j: Ebar per round; give this or `power_budget_w`. inf for no cap.
        power_budget_w: Ebar per second.
        penalty_weight: V, J^2 s per token, >= 0; the default is assumed.
        estimator: of acceptance; `Estimator.create()` if not given.

    Returns:
        The controller.

    Raises:
        ValueError: both budgets or none given, or a number out of its range.
    """
    if (energy_budget_j is None) == (power_budget_w is None):
        raise ValueError(
            f"gelato takes one budget: energy_budget_j is {energy_budget_j}, power_budget_w is {power_budget_w}"
        )
    params = LyapunovParams(
        penalty_weight=number("penalty_weight", penalty_weight, low=0.0),
        energy_budget_j=number("energy_budget_j", 0.0 if energy_budget_j is None else energy_budget_j, low=0.0),
        power_budget_w=number("power_budget_w", 0.0 if power_budget_w is None else power_budget_w, low=0.0),
    )
    return Controller(params=params, estimator=estimator or Estimator.create(), rule=_GELATO)


def _overspent(params: LyapunovParams, energy_j: Array, time_s: Array) -> Array:
    allowance = params.energy_budget_j + params.power_budget_w * time_s
    return jnp.where(jnp.isfinite(allowance), energy_j - allowance, 0.0)


def _init(params: LyapunovParams) -> LyapunovState:
    del params
    return LyapunovState(queue=Compensated.zero(), tokens=Compensated.zero(), seconds=Compensated.zero())


def _plan_ratio(
    params: LyapunovParams, state: LyapunovState, outlook: Outlook, forecast: AcceptanceForecast
) -> RoundPlan:
    tokens, time_s = forecast.tokens, outlook.time_s
    value, queue = params.penalty_weight, state.queue.value
    seconds = state.seconds.value
    theta = jnp.where(seconds > 0, state.tokens.value / jnp.where(seconds > 0, seconds, 1.0), jnp.max(tokens / time_s))
    score = value * (tokens - theta * time_s) - queue * _overspent(params, outlook.energy_j, time_s)
    earned = jnp.where(jnp.isfinite(params.power_budget_w), queue * params.power_budget_w, 0.0)
    return RoundPlan(
        draft_budget=jnp.argmax(score).astype(jnp.int32),
        token_value=value,
        energy_price=queue,
        time_price=value * theta - earned,
        acceptance_rate=forecast.rate,
    )


def _plan_gelato(
    params: LyapunovParams, state: LyapunovState, outlook: Outlook, forecast: AcceptanceForecast
) -> RoundPlan:
    value, queue = params.penalty_weight, state.queue.value
    best = jnp.argmax(value * forecast.tokens / outlook.time_s - queue * outlook.energy_j).astype(jnp.int32)
    tokens, time_s = forecast.tokens[best], outlook.time_s[best]
    return RoundPlan(
        draft_budget=best,
        token_value=value / time_s,
        energy_price=queue,
        time_price=value * tokens / (time_s * time_s),
        acceptance_rate=forecast.rate,
    )


def _filled(queue: Compensated, overspent: Array) -> Compensated:
    """max(Q + overspent, 0)."""
    queue = queue.add(overspent)
    positive = queue.high > 0
    return Compensated(high=jnp.where(positive, queue.high, 0.0), low=jnp.where(positive, queue.low, 0.0))


def _charge(params: LyapunovParams, state: LyapunovState, energy_j: Array, time_s: Array) -> LyapunovState:
    """A prompt fills the queue; a cap on power allows for its seconds, a budget a round does not. Theta stays."""
    outside = dataclasses.replace(params, energy_budget_j=jnp.where(jnp.isinf(params.energy_budget_j), jnp.inf, 0.0))
    return dataclasses.replace(state, queue=_filled(state.queue, _overspent(outside, energy_j, time_s)))


def _update(params: LyapunovParams, state: LyapunovState, outcome: Observation) -> LyapunovState:
    return LyapunovState(
        queue=_filled(state.queue, _overspent(params, outcome.energy_j, outcome.time_s)),
        tokens=state.tokens.add(outcome.tokens.astype(jnp.float32)),
        seconds=state.seconds.add(outcome.time_s),
    )


def _queue(params: LyapunovParams, state: LyapunovState) -> Array:
    del params
    return state.queue.value


_RATIO = ControllerRule(init=_init, plan=_plan_ratio, update=_update, queue=_queue, charge=_charge)
_GELATO = ControllerRule(init=_init, plan=_plan_gelato, update=_update, queue=_queue, charge=_charge)
