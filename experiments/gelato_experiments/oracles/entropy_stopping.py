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

A_i is kept on a grid (`stopping_grid`); rules for given prices are in `stopping_rules`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gelato_experiments.oracles import round_level
from gelato_experiments.oracles.costs import RoundCosts
from gelato_experiments.oracles.entropy_model import EntropyModel
from gelato_experiments.oracles.stopping_grid import Flags, Floats, World, make_world
from gelato_experiments.oracles.stopping_rules import Prices, Rule, best_rule, fixed_length

GAIN_TOLERANCE = 1e-9  # tokens a round: a rule that promises less ends the search
MAX_COLUMNS = 200  # a guard: searches end after 5 to 20
MAX_BOUND_STEPS = 50  # a guard: they end after 3


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
        probability: [W] distribution of the link state, i.i.d. over rounds and seen before the round.
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
    world = make_world(probability, model, costs, max_points)
    rules = [fixed_length(world, length) for length in range(costs.max_draft_length + 1)]
    rules += _frugal_rules(world, rules)
    mixture = _mix(world, rules, power_cap_w)
    if not mixture.feasible:
        nan = math.nan
        return StoppingOptimum(nan, nan, nan, nan, nan, nan, False, mixture.floor_w, None)
    while len(rules) < MAX_COLUMNS:
        prices = _prices(mixture.theta, mixture.energy_price, power_cap_w)
        rule, _ = best_rule(world, prices)
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


def _prices(theta: float, energy_price: float, cap_w: float) -> Prices:
    # Without a price on energy the cap, which may be infinite, has no say.
    credit = energy_price * cap_w if energy_price > 0.0 else 0.0
    return Prices(token=1.0, second=credit - theta, joule=-energy_price)


def _worth(world: World, rule: Rule, prices: Prices) -> float:
    worth = prices.token * rule.tokens + prices.second * rule.seconds + prices.joule * rule.joules
    return float(world.probability @ worth)


def _mix(world: World, rules: list[Rule], cap_w: float) -> round_level.RoundLevelOptimum:
    tables = (np.stack(parts, axis=1) for parts in zip(*((r.tokens, r.seconds, r.joules) for r in rules), strict=True))
    return round_level.solve(world.probability, *tables, power_cap_w=cap_w)


def _frugal_rules(world: World, rules: list[Rule]) -> list[Rule]:
    """Rules that lower the mean power of those given as far as it goes (Dinkelbach 1967)."""
    found = []
    power_w = _mix(world, rules, math.inf).floor_w
    while len(found) < MAX_COLUMNS:
        prices = Prices(token=0.0, second=power_w, joule=-1.0)
        rule, _ = best_rule(world, prices)
        if _worth(world, rule, prices) <= GAIN_TOLERANCE * power_w * float(world.probability @ rule.seconds):
            break
        found.append(rule)
        power_w = float(world.probability @ rule.joules) / float(world.probability @ rule.seconds)
    return found


def _bound(world: World, mixture: round_level.RoundLevelOptimum, cap_w: float) -> float:
    """The theta at which the promised value of the best rule is 0, at the mixture's energy price.

    Every feasible policy has E[N] - theta * E[T] <= that value, whatever the energy price is.
    """
    theta, promised = mixture.theta, math.inf
    for _ in range(MAX_BOUND_STEPS):
        rule, promised = best_rule(world, _prices(theta, mixture.energy_price, cap_w))
        if promised <= GAIN_TOLERANCE:
            break
        theta += promised / float(world.probability @ rule.seconds)
    return theta + max(0.0, promised) / float(world.probability @ world.costs.least_seconds)


def _policy(world: World, rules: list[Rule], mixture: Floats) -> StoppingPolicy:
    """The two rules of greatest weight in each link state: a vertex of the program has no more."""
    chosen = np.argsort(-mixture, axis=1, kind="stable")[:, :2].T
    weight = np.take_along_axis(mixture, chosen.T, axis=1).T
    start, go = (
        np.stack([np.stack([part[k][..., w] for w, k in enumerate(row)], axis=-1) for row in chosen])
        for part in ([rule.start for rule in rules], [rule.go for rule in rules])
    )
    return StoppingPolicy(world.survival, weight / weight.sum(axis=0), start, go)
