"""The best stationary randomised policy that picks a draft length from the round's observed state: a linear program."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array

from gelato_experiments.oracles.entropy_model import distribution

Floats = NDArray[np.float64]

SOLVER_TOLERANCE = 1e-10  # the finest that HiGHS takes
CAP_TOLERANCE = 1e-9  # of a typical power: a cap at the floor is raised by it, else the solver may find no point


@dataclass(frozen=True, eq=False)
class RoundLevelOptimum:
    """What `solve` found.

    Args:
        tokens_per_s: the rate; nan where infeasible.
        power_w: mean power of `policy`.
        policy: [W, A] probability of each action in each state; of least power where infeasible.
        theta: the price of a second in tokens, equal to the optimal rate.
        energy_price: the power constraint's dual, tokens per joule: what a watt more would add to the
            rate. At a cap equal to the floor any price from some number on is one; nan where infeasible.
        feasible: whether the cap can be met.
        floor_w: the least mean power of any policy.
    """

    tokens_per_s: float
    power_w: float
    policy: Floats
    theta: float
    energy_price: float
    feasible: bool
    floor_w: float


@dataclass(frozen=True, eq=False)
class _Tables:
    """Checked input, and which entries a program may use."""

    probability: Floats  # [W]
    tokens: Floats  # [W, A]
    seconds: Floats  # [W, A]
    joules: Floats  # [W, A]
    usable: NDArray[np.bool_]  # [W, A]


def solve(
    probability: ArrayLike,
    tokens: ArrayLike,
    seconds: ArrayLike,
    joules: ArrayLike,
    *,
    power_cap_w: float = math.inf,
) -> RoundLevelOptimum:
    """Maximise E[N] / E[T] subject to E[E] / E[T] <= Pbar over stationary randomised policies.

    With i.i.d. states this is a linear-fractional program; scaling by 1 / E[T] makes it linear
    (Charnes and Cooper 1962). What an action does to later states is not modelled.

    Args:
        probability: [W] distribution of the state, i.i.d. over rounds and independent of actions.
        tokens: [W, A] mean tokens of a round, by state and action; nan where never observed, which makes
            the action unavailable there. So in the other tables.
        seconds: [W, A] mean seconds, positive.
        joules: [W, A] mean joules, not negative.
        power_cap_w: Pbar, watts; inf for none. At the floor it is met to 1e-9 of a typical power.

    Returns:
        The optimum. States of probability 0 get the action that is best at its prices, or the first if
        none is available.

    Raises:
        ValueError: shapes disagree, a number is out of range, or a state that occurs has no action.
        RuntimeError: the solver gave up.
    """
    tables = _checked(probability, tokens, seconds, joules)
    if math.isnan(power_cap_w):
        raise ValueError("power_cap_w is nan")
    lowest, _ = _optimise(tables, -tables.joules, math.inf)
    floor_w = _ratios(lowest, tables)[1]
    slack_w = CAP_TOLERANCE * _typical_w(tables)
    if power_cap_w < floor_w - slack_w:
        policy = _complete(lowest, tables, floor_w * tables.seconds - tables.joules)
        return RoundLevelOptimum(math.nan, floor_w, policy, math.nan, math.nan, False, floor_w)
    cap_w = max(power_cap_w, floor_w + slack_w)
    policy, price = _optimise(tables, tables.tokens, cap_w)
    rate, power_w = _ratios(policy, tables)
    # Without a price on energy the cap, which may be infinite, has no say.
    energy = price * (tables.joules - cap_w * tables.seconds) if price > 0.0 else 0.0
    policy = _complete(policy, tables, tables.tokens - rate * tables.seconds - energy)
    return RoundLevelOptimum(rate, power_w, policy, rate, price, True, floor_w)


def evaluate(
    policy: ArrayLike, probability: ArrayLike, tokens: ArrayLike, seconds: ArrayLike, joules: ArrayLike
) -> tuple[float, float]:
    """Rate and power of a policy.

    Args:
        policy: [W, A] probability of each action in each state.
        probability: [W] distribution of the state.
        tokens: [W, A] as for `solve`.
        seconds: [W, A] as for `solve`.
        joules: [W, A] as for `solve`.

    Returns:
        Tokens per second and watts.

    Raises:
        ValueError: shapes disagree, or the policy uses an action that is not available.
    """
    tables = _checked(probability, tokens, seconds, joules)
    policy = distribution("policy", policy, tables.tokens.shape)
    if np.any((tables.probability[:, None] * policy > 0.0) & ~tables.usable):
        raise ValueError("the policy uses an action that was never observed")
    return _ratios(policy, tables)


def _checked(probability: ArrayLike, tokens: ArrayLike, seconds: ArrayLike, joules: ArrayLike) -> _Tables:
    values = [np.asarray(x, np.float64) for x in (tokens, seconds, joules)]
    shape = values[0].shape
    if len(shape) != 2 or any(x.shape != shape for x in values):
        raise ValueError(f"tokens, seconds and joules: [W, A] all, got {[x.shape for x in values]}")
    checked = distribution("probability", probability, shape[:1])
    usable = ~np.isnan(sum(values))
    if not all(np.all(np.isfinite(x[usable])) for x in values):
        raise ValueError("tables must be finite, or nan where never observed")
    if np.any(values[1][usable] <= 0.0) or np.any(values[2][usable] < 0.0):
        raise ValueError("seconds must be positive and joules not negative")
    idle = np.flatnonzero((checked > 0.0) & ~usable.any(axis=1))
    if len(idle):
        raise ValueError(f"states {idle.tolist()} occur and have no action")
    return _Tables(checked, *values, usable=usable)


def _optimise(tables: _Tables, objective: Floats, cap_w: float) -> tuple[Floats, float]:
    """Maximise E[objective] / E[T] under the cap; the policy, 0 in states of probability 0, and the dual.

    The variables are z = pi / E[T], by occurring state and available action, and 1 / E[T] itself. The
    probabilities stay in the sums, not in the variables, so that rare states keep full precision.
    """
    state, action = np.nonzero(tables.usable & (tables.probability > 0.0)[:, None])
    row = np.unique(state, return_inverse=True)[1]
    states, count = int(row[-1]) + 1, len(state)
    share = tables.probability[state]
    seconds, joules, gain = (table[state, action] for table in (tables.seconds, tables.joules, objective))
    second, joule, unit = (_scale(x) for x in (seconds, joules, gain))

    rows = np.concatenate([row, np.arange(states), np.full(count, states)])
    columns = np.concatenate([np.arange(count), np.full(states, count), np.arange(count)])
    entries = np.concatenate([np.ones(count), -np.ones(states), share * seconds / second])
    capped = math.isfinite(cap_w)
    result = linprog(
        -np.append(share * gain / unit, 0.0),
        A_ub=np.append(share * joules / joule, 0.0)[None, :] if capped else None,
        b_ub=[cap_w * second / joule] if capped else None,
        A_eq=coo_array((entries, (rows, columns)), shape=(states + 1, count + 1)).tocsr(),
        b_eq=np.append(np.zeros(states), 1.0),
        method="highs",
        options={"primal_feasibility_tolerance": SOLVER_TOLERANCE, "dual_feasibility_tolerance": SOLVER_TOLERANCE},
    )
    if result.x is None:
        raise RuntimeError(f"the linear program was not solved: {result.message}")
    policy = np.zeros(tables.tokens.shape)
    policy[state, action] = np.maximum(result.x[:-1], 0.0)
    policy /= np.maximum(policy.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    price = max(0.0, -float(result.ineqlin.marginals[0]) * unit / joule) if capped else 0.0
    return policy, price


def _typical_w(tables: _Tables) -> float:
    used = tables.usable & (tables.probability > 0.0)[:, None]
    return _scale(tables.joules[used]) / _scale(tables.seconds[used])


def _scale(values: Floats) -> float:
    """A typical size, by which the program's rows are brought near 1: HiGHS judges residuals absolutely."""
    return float(np.mean(np.abs(values))) or 1.0


def _ratios(policy: Floats, tables: _Tables) -> tuple[float, float]:
    use = tables.probability[:, None] * policy
    tokens, seconds, joules = (
        float(np.sum(use * np.where(use > 0.0, table, 0.0))) for table in (tables.tokens, tables.seconds, tables.joules)
    )
    return tokens / seconds, joules / seconds


def _complete(policy: Floats, tables: _Tables, worth: Floats) -> Floats:
    """Fill the rows of states that never occur with the action of greatest worth [W, A]."""
    best = np.argmax(np.where(tables.usable, worth, -np.inf), axis=1)
    return np.where((tables.probability > 0.0)[:, None], policy, np.eye(policy.shape[1])[best])
