"""The best policy that also stops on the entropies met within a round, on a Markov model of them.

The device decides on the first draft before it has seen any entropy. Having computed draft i it knows its
class c_i; the draft is sent and paid for in any case, and the class decides on draft i + 1. With A_i the
product of the acceptances of c_1..c_i, a round yields N = 1 + sum_i A_i tokens in expectation.

For prices theta of a second and mu of a joule, the best rule maximises

    E[N - theta * T - mu * (E - Pbar * T)]

by backward induction over (i, c_i, A_i), for each link state alone. The prices come from column generation
(Dantzig and Wolfe 1960): `round_level` mixes the rules found so far under the cap, its duals are the next
prices, and the best rule at them is the next column, until none gains. The mixture randomises in one link
state at most, meets a binding cap exactly, and begins with the fixed lengths, so it is never worse than
the round-level oracle on the same model.

A_i is kept on a grid. Where the products of acceptances are few, the grid holds them all and everything is
exact. Else a value between two points is interpolated; as the value is convex in A (a maximum of linear
functions, averaged), this overestimates it, so that the dual bound stays a bound. A rule on the grid is a
rule of the real device too: it rounds its A to a neighbouring point at random, without bias. Its tokens,
seconds and joules are computed exactly, so the rate reported is achieved on the model, and the distance to
the bound is all that the grid may have cost.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from gelato_experiments.oracles import round_level
from gelato_experiments.oracles.costs import RoundCosts
from gelato_experiments.oracles.entropy_model import EntropyModel, distribution

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

GAIN_TOLERANCE = 1e-9  # tokens a round: a rule that promises less ends the search
MAX_COLUMNS = 200  # a guard: searches end after 5 to 20
MAX_BOUND_STEPS = 50  # a guard: they end after 3
SAME_PRODUCT = 1e-12  # relative; products of the same classes in another order differ by rounding
GRID_POWER = 2.5  # points at (j / n)^2.5: dense near 0 in proportion, where thresholds lie, and enough near 1


@dataclass(frozen=True, eq=False)
class StoppingPolicy:
    """Up to two rules for each link state, one of which is drawn at each round's begin.

    The device keeps a grid index of its survival A, at first that of 1. After a draft of class c the new
    A' = A * acceptance[c] is rounded to one of the two grid points around it, the upper one with
    probability (A' - lower) / (upper - lower).

    Args:
        survival: [n] increasing grid from 0 to 1.
        weight: [2, W] probability of each rule, by link state.
        start: [2, W] whether to draft at all.
        go: [2, G - 1, C, n, W] whether to draft token i + 2 after token i + 1 of class c, at grid index j.
    """

    survival: Floats
    weight: Floats
    start: Flags
    go: Flags


@dataclass(frozen=True, eq=False)
class StoppingOptimum:
    """What `solve` found.

    Args:
        tokens_per_s: rate that `policy` achieves on the model; nan where infeasible.
        bound_tokens_per_s: rate that no such policy exceeds; nan where infeasible.
        power_w: mean power of `policy`; nan where infeasible.
        theta: price of a second in tokens: the optimal rate.
        energy_price: price of a joule in tokens, 0 if the cap does not bind.
        mean_draft_length: drafts a round of `policy`.
        feasible: whether the cap can be met.
        floor_w: least mean power of any policy found.
        policy: what achieves it; None where infeasible.
    """

    tokens_per_s: float
    bound_tokens_per_s: float
    power_w: float
    theta: float
    energy_price: float
    mean_draft_length: float
    feasible: bool
    floor_w: float
    policy: StoppingPolicy | None


@dataclass(frozen=True, eq=False)
class _Prices:
    """What a token, a second and a joule are worth in the objective."""

    token: float
    second: float
    joule: float


@dataclass(frozen=True, eq=False)
class _Rule:
    """A deterministic rule for every link state, and what it does: one column per state."""

    start: Flags  # [W]
    go: Flags  # [G - 1, C, n, W]
    tokens: Floats  # [W]
    drafted: Floats  # [W] mean draft length
    seconds: Floats  # [W]
    joules: Floats  # [W]


@dataclass(frozen=True, eq=False)
class _World:
    """The problem, checked, with its grid."""

    probability: Floats  # [W]
    model: EntropyModel
    costs: RoundCosts
    survival: Floats  # [n]
    after: csr_array  # [C n, C n] values at the grid -> values at grid * acceptance, class by class

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, grid points, link states."""
        return len(self.model.acceptance), len(self.survival), len(self.probability)


def solve(
    probability: ArrayLike,
    model: EntropyModel,
    costs: RoundCosts,
    *,
    power_cap_w: float = math.inf,
    max_points: int = 1000,
) -> StoppingOptimum:
    """The best rate under a cap of a policy that sees the link state, then the entropy classes one by one.

    Args:
        probability: [W] law of the link state, i.i.d. over rounds and seen before the round.
        model: of the entropies.
        costs: of a round.
        power_cap_w: Pbar, watts; inf for none.
        max_points: of the survival grid; all products of acceptances if there are no more, else so many
            points between 0 and 1.

    Returns:
        The optimum, its bound and its policy.

    Raises:
        ValueError: shapes disagree, or a number is out of range.
        RuntimeError: the linear program was not solved.
    """
    world = _world(probability, model, costs, max_points)
    rules = [_fixed_length(world, length) for length in range(costs.max_draft_length + 1)]
    rules += _frugal_rules(world, rules)
    mixture = _mix(world, rules, power_cap_w)
    if not mixture.feasible:
        nan = math.nan
        return StoppingOptimum(nan, nan, nan, nan, nan, nan, False, mixture.floor_w, None)
    while len(rules) < MAX_COLUMNS:
        prices = _prices(mixture.theta, mixture.energy_price, power_cap_w)
        rule, _ = _best_rule(world, prices)
        if _worth(world, rule, prices) <= GAIN_TOLERANCE:
            break
        rules.append(rule)
        mixture = _mix(world, rules, power_cap_w)
    lengths = np.stack([rule.drafted for rule in rules], axis=1)
    return StoppingOptimum(
        tokens_per_s=mixture.tokens_per_s,
        bound_tokens_per_s=_bound(world, mixture, power_cap_w),
        power_w=mixture.power_w,
        theta=mixture.theta,
        energy_price=mixture.energy_price,
        mean_draft_length=float(world.probability @ (mixture.policy * lengths).sum(axis=1)),
        feasible=True,
        floor_w=mixture.floor_w,
        policy=_policy(world, rules, mixture.policy),
    )


def fixed_length_tables(model: EntropyModel, costs: RoundCosts) -> tuple[Floats, Floats, Floats]:
    """Tokens, seconds and joules of rounds of fixed length on the model, as `round_level.solve` takes them.

    Args:
        model: of the entropies.
        costs: of a round.

    Returns:
        Three tables [W, G + 1].
    """
    lengths = costs.max_draft_length
    survival = model.survival(lengths)
    spent = [costs.expected(np.arange(lengths) < length, survival[length]) for length in range(lengths + 1)]
    seconds, joules = (np.stack(part, axis=1) for part in zip(*spent, strict=True))
    return np.broadcast_to(np.cumsum(survival), seconds.shape).copy(), seconds, joules


def _world(probability: ArrayLike, model: EntropyModel, costs: RoundCosts, max_points: int) -> _World:
    if max_points < 2:
        raise ValueError(f"max_points must be 2 or more, got {max_points}")
    law = distribution("probability", probability, costs.base_s.shape)
    survival = _grid(model.acceptance, costs.max_draft_length, max_points)
    return _World(law, model, costs, survival, _interpolation(survival, model.acceptance))


def _grid(acceptance: Floats, max_draft_length: int, max_points: int) -> Floats:
    """[n] increasing, from 0 to 1: every product of up to G acceptances, or powers of equal steps."""
    points = np.array([0.0, 1.0])
    for _ in range(max_draft_length):
        points = np.unique(np.append(points, np.outer(acceptance, points)))
        points = points[np.append(True, np.diff(points) > SAME_PRODUCT * points[1:])]
        if len(points) > max_points:
            return np.linspace(0.0, 1.0, max_points) ** GRID_POWER
    # 1 may have been taken for a product just below it.
    return np.append(points[:-1], 1.0)


def _interpolation(survival: Floats, acceptance: Floats) -> csr_array:
    """[C n, C n]: rows are (class, point); each has the weights of the two points around point * acceptance.

    Its transpose rounds: it sends a share of a point's mass to each of the two, without bias.
    """
    count = len(survival)
    at = np.outer(acceptance, survival)
    upper = np.clip(np.searchsorted(survival, at), 1, count - 1)
    weight = (at - survival[upper - 1]) / (survival[upper] - survival[upper - 1])
    block = count * np.arange(len(acceptance))[:, None]
    columns = np.stack([upper - 1 + block, upper + block], axis=-1)
    weights = np.stack([1.0 - weight, weight], axis=-1)
    return csr_array(
        (weights.ravel(), columns.ravel(), np.arange(0, weights.size + 1, 2)), shape=(block.size * count,) * 2
    )


def _prices(theta: float, energy_price: float, cap_w: float) -> _Prices:
    # Without a price on energy the cap, which may be infinite, has no say.
    credit = energy_price * cap_w if energy_price > 0.0 else 0.0
    return _Prices(token=1.0, second=credit - theta, joule=-energy_price)


def _worth(world: _World, rule: _Rule, prices: _Prices) -> float:
    worth = prices.token * rule.tokens + prices.second * rule.seconds + prices.joule * rule.joules
    return float(world.probability @ worth)


def _mix(world: _World, rules: list[_Rule], cap_w: float) -> round_level.RoundLevelOptimum:
    tables = (np.stack(parts, axis=1) for parts in zip(*((r.tokens, r.seconds, r.joules) for r in rules), strict=True))
    return round_level.solve(world.probability, *tables, power_cap_w=cap_w)


def _frugal_rules(world: _World, rules: list[_Rule]) -> list[_Rule]:
    """Rules that lower the mean power of those given as far as it goes (Dinkelbach 1967)."""
    found = []
    power_w = _mix(world, rules, math.inf).floor_w
    while len(found) < MAX_COLUMNS:
        prices = _Prices(token=0.0, second=power_w, joule=-1.0)
        rule, _ = _best_rule(world, prices)
        if _worth(world, rule, prices) <= GAIN_TOLERANCE * power_w * float(world.probability @ rule.seconds):
            break
        found.append(rule)
        power_w = float(world.probability @ rule.joules) / float(world.probability @ rule.seconds)
    return found


def _best_rule(world: _World, prices: _Prices) -> tuple[_Rule, float]:
    """The best rule at these prices, and the value that interpolation promises of it, per round."""
    costs = world.costs
    base, token, reject, full = (
        prices.second * seconds + prices.joule * joules
        for seconds, joules in (
            (costs.base_s, costs.base_j),
            (costs.token_s, costs.token_j),
            (costs.reject_s, costs.reject_j),
            (costs.full_s, costs.full_j),
        )
    )
    classes, points, states = world.shape
    survival = world.survival[:, None]
    stop = np.broadcast_to(reject + (full - reject) * survival, (classes, points, states))
    gain = prices.token * (world.model.transition @ world.model.acceptance)[:, None, None] * survival
    value = stop
    go = np.zeros((costs.max_draft_length - 1, classes, points, states), np.bool_)
    for i in reversed(range(1, costs.max_draft_length)):
        # After token i the next one is paid for, then its class is seen.
        ahead = (world.after @ value.reshape(-1, states)).reshape(classes, -1)
        onward = (world.model.transition @ ahead).reshape(value.shape) + gain + token[:, i]
        np.greater(onward, stop, out=go[i - 1])
        value = np.maximum(onward, stop)
    ahead = (world.after @ value.reshape(-1, states)).reshape(value.shape)[:, -1]
    first = prices.token * float(world.model.initial @ world.model.acceptance)
    onward = world.model.initial @ ahead + first + token[:, 0]
    promised = prices.token + base + np.maximum(onward, full)
    return _followed(world, onward > full, go), float(world.probability @ promised)


def _followed(world: _World, start: Flags, go: Flags) -> _Rule:
    """What a rule does on the model, exactly.

    Two measures over (class, grid point, link state) go forward: the probability of being there, and the
    same times A, of which tokens and outcomes are linear.
    """
    classes, points, states = world.shape
    lengths = world.costs.max_draft_length
    accept = world.model.acceptance[:, None, None, None]
    flow = np.zeros((classes, points, 2, states))
    # A round begins with A = 1, the last grid point.
    flow[:, -1] = world.model.initial[:, None, None] * start
    tokens, unrejected = np.ones(states), (~start).astype(np.float64)
    drafted = np.zeros((states, lengths))
    for i in range(lengths):
        flow[:, :, 1] *= accept[..., 0]
        flow = (world.after.T @ flow.reshape(classes * points, -1)).reshape(flow.shape)
        probability, survival = flow.sum(axis=(0, 1))
        drafted[:, i] = probability
        tokens += survival
        onward = flow * go[i, :, :, None] if i < lengths - 1 else np.zeros_like(flow)
        unrejected += survival - onward[:, :, 1].sum(axis=(0, 1))
        flow = (world.model.transition.T @ onward.reshape(classes, -1)).reshape(flow.shape)
    seconds, joules = world.costs.expected(drafted, unrejected)
    return _Rule(start, go, tokens, drafted.sum(axis=1), seconds, joules)


def _fixed_length(world: _World, length: int) -> _Rule:
    classes, points, states = world.shape
    steps = np.arange(1, world.costs.max_draft_length) < length
    go = np.broadcast_to(steps[:, None, None, None], (len(steps), classes, points, states))
    tokens, seconds, joules = (table[:, length] for table in fixed_length_tables(world.model, world.costs))
    return _Rule(np.full(states, length > 0), go, tokens, np.full(states, float(length)), seconds, joules)


def _bound(world: _World, mixture: round_level.RoundLevelOptimum, cap_w: float) -> float:
    """The theta at which the promised value of the best rule is 0, at the mixture's energy price.

    Every feasible policy has E[N] - theta * E[T] <= that value, whatever the energy price is.
    """
    theta, promised = mixture.theta, math.inf
    for _ in range(MAX_BOUND_STEPS):
        rule, promised = _best_rule(world, _prices(theta, mixture.energy_price, cap_w))
        if promised <= GAIN_TOLERANCE:
            break
        theta += promised / float(world.probability @ rule.seconds)
    return theta + max(0.0, promised) / float(world.probability @ world.costs.least_seconds)


def _policy(world: _World, rules: list[_Rule], mixture: Floats) -> StoppingPolicy:
    """The two rules of greatest weight in each link state: a vertex of the program has no more."""
    chosen = np.argsort(-mixture, axis=1, kind="stable")[:, :2].T
    weight = np.take_along_axis(mixture, chosen.T, axis=1).T
    start, go = (
        np.stack([np.stack([part[k][..., w] for w, k in enumerate(row)], axis=-1) for row in chosen])
        for part in ([rule.start for rule in rules], [rule.go for rule in rules])
    )
    return StoppingPolicy(world.survival, weight / weight.sum(axis=0), start, go)
