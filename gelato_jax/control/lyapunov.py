"""Drift-plus-penalty controllers: an energy queue prices joules, and the best draft length is searched for.

All keep the queue Q' = max(Q + E - allowance, 0) in compensated arithmetic, so that on every path,
however long, sum(E) <= sum(allowance) + Q_end - Q_start. The queue persists across requests.

A row that does not draft learns nothing of its draft. All therefore send a *probe*, `probe_length` drafts, in
place of a round without drafts once `probe_after` tokens in a row have come without any, and in the rounds behind it
while the last probe's first draft stood; evidence that a draft is better than believed so comes in one piece.
A probe is sent only with an empty queue: it can raise the queue to one round's joules at most and it is paid for
before the next, so a cap that holds without probes holds with them. What drafts lose at present prices, catching up
included, has a queue of its own, from which each token without drafts takes `PROBE_SHARE`; no probe is sent while it is
over 0: finding out, and drafts that a lucky probe led to, cost that share of the tokens where not drafting is right,
and `PROBE_CREDIT` tokens at first. Where catching up takes more than `CATCH_UP_TOKENS` tokens in `probe_after` none is
sent either, for a text would stand still. Exits may end a probe after its first draft.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import Controller, ControllerRule
from gelato_jax.control.estimator import Estimator
from gelato_jax.errors import GelatoError
from gelato_jax.types import AcceptanceForecast, Compensated, CostTable, Observation, RoundPlan, number, record

PROBE_AFTER = 100
"""Tokens without drafts before a probe; assumed."""
CATCH_UP_TOKENS = 2.0
"""Tokens without drafts that catching up for a probe may take for every `probe_after` of them; assumed."""
PROBE_SHARE = 0.005
"""Of the tokens without drafts, what drafts may lose for probes to go on; assumed."""
PROBE_CREDIT = 10.0
"""Tokens that they may lose beside that at first, and whenever so many have been saved up; assumed."""
PROBE_LENGTH = 1
"""Drafts of a probe; assumed."""
PASSES_A_TOKEN = 30.0
"""Passes in the queue of passes at which one more costs what a token is worth; assumed."""


@record
class LyapunovParams:
    """The numbers of a drift-plus-penalty rule; a round's allowance is energy_budget_j + power_budget_w * T."""

    penalty_weight: Array  # [] V: J^2 a token (ratio), J^2 a token/s (gelato)
    energy_budget_j: Array  # [] joules allowed a round; inf: no cap
    power_budget_w: Array  # [] watts allowed; inf: no cap
    pass_budget: Array  # [] passes of the target allowed a token; inf: no cap
    probe_after: Array  # [] int32 tokens without drafts before a probe
    probe_length: Array  # [] int32 drafts of a probe; 0: none is sent


@record
class LyapunovState:
    """Queue and running totals."""

    queue: Compensated  # [] J, >= 0
    passes: Compensated  # [] passes of the target over what was allowed, >= 0
    tokens: Compensated  # [] sum(N)
    seconds: Compensated  # [] sum(T), less the draft's reading of prompts
    ahead: Array  # [] J of the queue that went into reading this request's prompt, the share of tokens to come
    idle: Array  # [] int32 tokens without drafts since the last drafts; kept while probes stand
    lost: Array  # [] tokens that drafts lost beyond what they may, >= -PROBE_CREDIT


def ratio(
    *,
    power_budget_w: ArrayLike = math.inf,
    pass_budget: ArrayLike = math.inf,
    penalty_weight: ArrayLike = 10.0,
    estimator: Estimator | None = None,
    probe_after: ArrayLike = PROBE_AFTER,
    probe_length: ArrayLike = PROBE_LENGTH,
) -> Controller:
    """Most tokens per second, sum(N)/sum(T), under a cap on mean power, sum(E)/sum(T) <= Pbar. The default.

    Q' = max(Q + E - Pbar*T, 0), theta = sum(N)/sum(T) so far,
    gamma = argmax over 0..G of V*(N - theta*T) - Q*(E - Pbar*T)
    (renewal systems, Neely, arXiv 1011.5942). Before the first round theta is the best N/T of the
    cost_table. Prices: V a token, Q a joule, V*theta - Q*Pbar a second.

    A larger V comes closer to the optimum (the gap falls as 1/V) and takes longer to settle (the queue
    settles near V times the marginal tokens per joule). A V so small that a prompt's joules are many times that leaves
    long prompts unread, and a part of the cap unspent.

    The edge has a cap of its own, `pass_budget` c: sum(passes) <= c*sum(N) over rounds, by a second queue in the same
    form, Z' = max(Z + passes - c*N, 0), at V*Z/`PASSES_A_TOKEN` a pass. A round with drafts is one pass, one without is
    a pass for each of its tokens. Where the target streams, an edge that costs nothing leaves little to draft for; this
    says what it costs. A c under 1/(G + 1) cannot be kept: rounds are then as long as they can be.

    A prompt's joules enter the queue when it is read, and its price as the request's tokens come. While it is unread,
    rounds with drafts bear a share of it in T and E, and theta is at most what those rounds could reach themselves.

    Args:
        power_budget_w: Pbar, >= 0; inf for no cap. See `check_power_budget`.
        pass_budget: c, passes of the target a token, >= 0; inf for no cap.
        penalty_weight: V, J^2 per token, >= 0; the default is assumed.
        estimator: of acceptance; `Estimator.create()` if not given.
        probe_after: tokens without drafts before a probe, >= 1; what a probe is and costs is said above.
        probe_length: drafts of a probe, >= 0; 0 sends none.

    Returns:
        The controller.

    Raises:
        GelatoError: a number is out of its range.
    """
    params = _params(penalty_weight, 0.0, power_budget_w, probe_after, probe_length, pass_budget)
    return Controller(params=params, estimator=estimator or Estimator.create(), rule=_RATIO)


def gelato(
    *,
    energy_budget_j: ArrayLike | None = None,
    power_budget_w: ArrayLike | None = None,
    penalty_weight: ArrayLike = 10.0,
    estimator: Estimator | None = None,
    probe_after: ArrayLike = PROBE_AFTER,
    probe_length: ArrayLike = PROBE_LENGTH,
) -> Controller:
    """The form reported of the paper (arXiv 2605.10124, equation 7 and algorithm 1), expectations under alpha(H).

    Q' = max(Q + E - Ebar, 0), gamma = argmax over 0..G of V*(N/T)(gamma) - Q*E(gamma), where
    N(gamma) = (1 - alpha^(gamma+1)) / (1 - alpha) and alpha is the calibration's alpha(H) = a*exp(b*H).
    Whether Ebar is per round or per second is not settled, so both are offered: `energy_budget_j`
    allows that much a round, `power_budget_w` allows Pbar*T, T the round's own length. Prices, from
    the objective made linear at the chosen gamma: V/T a token, Q a joule, V*N/T^2 a second.

    The paper's text was not read; assumed: H of a draft to come is that of the drafts just verified, so alpha is
    the mean of alpha(H) over the row's latest drafts (`Estimator.from_entropy`). Whether they were accepted is not
    looked at; `gelato_estimated` does. The probes are ours.

    Args:
        energy_budget_j: Ebar per round; give this or `power_budget_w`. inf for no cap.
        power_budget_w: Ebar per second.
        penalty_weight: V, J^2 s per token, >= 0; the default is assumed.
        estimator: how fast entropies are forgotten; `Estimator.create()` if not given.
        probe_after: tokens without drafts before a probe, >= 1; what a probe is and costs is said above.
        probe_length: drafts of a probe, >= 0; 0 sends none.

    Returns:
        The controller.

    Raises:
        GelatoError: both budgets or none given, or a number out of its range.
    """
    by_entropy = dataclasses.replace(estimator or Estimator.create(), from_entropy=jnp.ones((), jnp.float32))
    return gelato_estimated(
        energy_budget_j=energy_budget_j,
        power_budget_w=power_budget_w,
        penalty_weight=penalty_weight,
        estimator=by_entropy,
        probe_after=probe_after,
        probe_length=probe_length,
    )


def gelato_estimated(
    *,
    energy_budget_j: ArrayLike | None = None,
    power_budget_w: ArrayLike | None = None,
    penalty_weight: ArrayLike = 10.0,
    estimator: Estimator | None = None,
    probe_after: ArrayLike = PROBE_AFTER,
    probe_length: ArrayLike = PROBE_LENGTH,
) -> Controller:
    """`gelato` with our estimator: expectations under what was accepted, by a draft's place in its round.

    Args:
        energy_budget_j: as of `gelato`.
        power_budget_w: as of `gelato`.
        penalty_weight: as of `gelato`.
        estimator: of acceptance; `Estimator.create()` if not given.
        probe_after: as of `gelato`.
        probe_length: as of `gelato`.

    Returns:
        The controller.

    Raises:
        GelatoError: both budgets or none given, or a number out of its range.
    """
    if (energy_budget_j is None) == (power_budget_w is None):
        raise GelatoError(
            f"give one budget: energy_budget_j is {energy_budget_j}, power_budget_w is {power_budget_w}; inf is no cap"
        )
    joules, watts = (0.0 if budget is None else budget for budget in (energy_budget_j, power_budget_w))
    params = _params(penalty_weight, joules, watts, probe_after, probe_length)
    return Controller(params=params, estimator=estimator or Estimator.create(), rule=_GELATO)


def _params(
    penalty_weight: ArrayLike,
    energy_budget_j: ArrayLike,
    power_budget_w: ArrayLike,
    probe_after: ArrayLike,
    probe_length: ArrayLike,
    pass_budget: ArrayLike = math.inf,
) -> LyapunovParams:
    return LyapunovParams(
        penalty_weight=number("penalty_weight", penalty_weight, low=0.0),
        energy_budget_j=number("energy_budget_j", energy_budget_j, low=0.0, finite=False),
        power_budget_w=number("power_budget_w", power_budget_w, low=0.0, finite=False),
        pass_budget=number("pass_budget", pass_budget, low=0.0, finite=False),
        probe_after=number("probe_after", probe_after, low=1, dtype=jnp.int32),
        probe_length=number("probe_length", probe_length, low=0, dtype=jnp.int32),
    )


def _overspent(params: LyapunovParams, energy_j: Array, time_s: Array) -> Array:
    allowance = params.energy_budget_j + params.power_budget_w * time_s
    return jnp.where(jnp.isfinite(allowance), energy_j - allowance, 0.0)


def _finite(budget: Array) -> Array:
    return jnp.where(jnp.isfinite(budget), budget, 0.0)


def _passes_over(params: LyapunovParams, passes: Array, tokens: Array) -> Array:
    return jnp.where(jnp.isfinite(params.pass_budget), passes - _finite(params.pass_budget) * tokens, 0.0)


def _init(params: LyapunovParams) -> LyapunovState:
    del params
    zero = Compensated.zero()
    nothing = jnp.zeros((), jnp.float32)
    count = jnp.zeros((), jnp.int32)
    return LyapunovState(
        queue=zero, passes=zero, tokens=zero, seconds=zero, ahead=nothing, idle=count, lost=nothing - PROBE_CREDIT
    )


def _probed(params: LyapunovParams, state: LyapunovState, cost_table: CostTable, best: Array) -> Array:
    """The draft budget: the best length, or a probe where that is 0, as it was for long, and no joule is owed.

    What the draft has not seen since must be cheap to catch up with, beside the idle time.
    """
    probe = jnp.minimum(params.probe_length, cost_table.time_s.shape[0] - 1)
    token_s = cost_table.time_s[0] / cost_table.stream_length
    cheap = cost_table.catch_up_s * params.probe_after <= CATCH_UP_TOKENS * state.idle * token_s
    due = (best == 0) & (state.idle >= params.probe_after) & (state.queue.value <= 0) & (state.lost <= 0) & cheap
    return jnp.where(due, probe, best).astype(jnp.int32)


def _plan_ratio(
    params: LyapunovParams, state: LyapunovState, cost_table: CostTable, forecast: AcceptanceForecast
) -> RoundPlan:
    tokens, time_s = cost_table.tokens(forecast), cost_table.time_s
    value, queue = params.penalty_weight, _price(params, state, cost_table)
    pass_price = value * state.passes.value / PASSES_A_TOKEN
    owed = queue * _overspent(params, cost_table.energy_j, time_s)
    owed = owed + pass_price * _passes_over(params, cost_table.passes, tokens)
    theta = jnp.where(state.seconds.value > 0, _theta(state), jnp.max(tokens / time_s))
    # Rounds that bear a prompt cannot keep up with a theta of rounds that do not: they are held against one another.
    own = jnp.max((tokens - owed / jnp.where(value > 0, value, 1.0)) / time_s)
    theta = jnp.where(cost_table.unread & (value > 0), jnp.minimum(theta, own), theta)
    score = value * (tokens - theta * time_s) - owed
    earned = queue * _finite(params.power_budget_w)
    return RoundPlan(
        draft_budget=_probed(params, state, cost_table, jnp.argmax(score)),
        token_value=value + pass_price * _finite(params.pass_budget),
        energy_price=queue,
        time_price=value * theta - earned,
        acceptance_rate=forecast.rate,
    )


def _plan_gelato(
    params: LyapunovParams, state: LyapunovState, cost_table: CostTable, forecast: AcceptanceForecast
) -> RoundPlan:
    value, queue = params.penalty_weight, _price(params, state, cost_table)
    tokens = cost_table.tokens(forecast)
    best = jnp.argmax(value * tokens / cost_table.time_s - queue * cost_table.energy_j)
    tokens, time_s = tokens[best], cost_table.time_s[best]
    return RoundPlan(
        draft_budget=_probed(params, state, cost_table, best),
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


def _charge(params: LyapunovParams, state: LyapunovState, outcome: Observation) -> LyapunovState:
    """A prompt fills the queue; a cap on power allows for its seconds, a budget a round does not.

    Theta stays: a prompt that is read, or need not be, says nothing of what a second of the rounds behind it is worth.
    """
    queue = _filled(state.queue, _overspent(_outside(params), outcome.energy_j, outcome.time_s))
    cost = outcome.cost
    return dataclasses.replace(
        state, queue=queue, ahead=_reading(params, outcome.read_prompt, cost.catch_up_j, cost.catch_up_s)
    )


def _charge_ratio(params: LyapunovParams, state: LyapunovState, outcome: Observation) -> LyapunovState:
    """What the draft's reading of a prompt takes is lost until its drafts have earned it."""
    read = jnp.where(outcome.read_prompt, outcome.cost.catch_up_s, 0.0)
    return dataclasses.replace(_charge(params, state, outcome), lost=state.lost + _theta(state) * read)


def _theta(state: LyapunovState) -> Array:
    """Tokens a second so far; 0 before the first round."""
    seconds = state.seconds.value
    return state.tokens.value / jnp.where(seconds > 0, seconds, 1.0)


def _outside(params: LyapunovParams) -> LyapunovParams:
    """What is allowed outside rounds: a budget of joules a round allows nothing there."""
    return dataclasses.replace(params, energy_budget_j=jnp.where(jnp.isinf(params.energy_budget_j), jnp.inf, 0.0))


def _reading(params: LyapunovParams, reads: Array, energy_j: Array, time_s: Array) -> Array:
    """What the draft's reading of a prompt puts into the queue; 0 where it reads none."""
    return jnp.where(reads, jnp.maximum(_overspent(_outside(params), energy_j, time_s), 0.0), 0.0)


def _price(params: LyapunovParams, state: LyapunovState, cost_table: CostTable) -> Array:
    """The queue, but for the joules of reading a prompt: the tokens of its request share them, as seconds are shared.

    Priced at once, a long prompt would forbid the very drafts that it was read for. One that is still to be read must
    not be priced at the queue before it either, for it may fill the queue beyond what its request can empty. It adds
    what it would leave in the queue, on the mean over its request, if rounds without drafts were all that followed:
    nothing to speak of where a few of them pay for it, nearly all of it where the request is over first.
    """
    reading = _reading(params, cost_table.unread, cost_table.catch_up_j, cost_table.catch_up_s)
    idle = _overspent(params, cost_table.energy_j[0], cost_table.time_s[0]) / cost_table.stream_length
    emptied = jnp.maximum(-idle, 0.0) * cost_table.remaining
    within = 0.5 * reading * reading / jnp.maximum(emptied, 1e-9)  # a triangle, as long as its part of the request
    left = jnp.where(emptied >= reading, within, reading - 0.5 * emptied)
    return jnp.maximum(state.queue.value - state.ahead, 0.0) + left


def _update_ratio(params: LyapunovParams, state: LyapunovState, outcome: Observation) -> LyapunovState:
    """Drafts that were worth less than their price, meant or not, are what was lost."""
    value = params.penalty_weight
    owed = state.queue.value * _overspent(params, outcome.energy_j, outcome.time_s) / jnp.where(value > 0, value, 1.0)
    passes = _passes_over(params, jnp.asarray(outcome.passes, jnp.float32), outcome.tokens)
    return _update(params, state, outcome, owed + state.passes.value / PASSES_A_TOKEN * passes)


def _update_gelato(params: LyapunovParams, state: LyapunovState, outcome: Observation) -> LyapunovState:
    """Its prices are none of tokens: only what probes took longer than their tokens is lost."""
    after = _update(params, state, outcome, owed=0.0)
    meant = (outcome.drafted > 0) & (state.idle < params.probe_after)
    return dataclasses.replace(after, lost=jnp.where(meant, state.lost, after.lost))


def _update(params: LyapunovParams, state: LyapunovState, outcome: Observation, owed: Array | float) -> LyapunovState:
    """The state after a round, which cost `owed` tokens beside its time."""
    drafted, waited = outcome.drafted > 0, state.idle >= params.probe_after
    stands = waited & (outcome.accepted > 0)
    lost = _theta(state) * outcome.time_s + owed - outcome.tokens
    lost = jnp.where(drafted, lost, -PROBE_SHARE * outcome.tokens)
    share = jnp.minimum(outcome.tokens / jnp.maximum(outcome.remaining, 1), 1.0)
    read, cost = outcome.read_prompt, outcome.cost
    ahead = jnp.where(read, _reading(params, read, cost.catch_up_j, cost.catch_up_s), state.ahead)
    return LyapunovState(
        queue=_filled(state.queue, _overspent(params, outcome.energy_j, outcome.time_s)),
        passes=_filled(state.passes, _passes_over(params, jnp.asarray(outcome.passes, jnp.float32), outcome.tokens)),
        tokens=state.tokens.add(outcome.tokens.astype(jnp.float32)),
        seconds=state.seconds.add(outcome.time_s - jnp.where(read, cost.catch_up_s, 0.0)),
        ahead=ahead * (1.0 - share),
        idle=jnp.where(drafted, stands * state.idle, state.idle + outcome.tokens).astype(jnp.int32),
        lost=jnp.maximum(state.lost + lost, -PROBE_CREDIT),
    )


def _power_budget(params: LyapunovParams) -> Array:
    """A budget of joules a round is no cap on power."""
    return jnp.where(params.energy_budget_j > 0, jnp.inf, params.power_budget_w)


def _queue(params: LyapunovParams, state: LyapunovState) -> Array:
    del params
    return state.queue.value


_CAPPED = {"init": _init, "queue": _queue, "power_budget": _power_budget}
_RATIO = ControllerRule(plan=_plan_ratio, update=_update_ratio, charge=_charge_ratio, **_CAPPED)
_GELATO = ControllerRule(plan=_plan_gelato, update=_update_gelato, charge=_charge, **_CAPPED)
