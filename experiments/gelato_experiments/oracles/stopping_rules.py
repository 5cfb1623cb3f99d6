"""Rules of `entropy_stopping`: the best one at given prices by backward induction, and what a rule comes to."""

from dataclasses import dataclass

import numpy as np

from gelato_experiments.oracles.costs import RoundCosts
from gelato_experiments.oracles.entropy_model import EntropyModel
from gelato_experiments.oracles.stopping_grid import Flags, Floats, World


@dataclass(frozen=True, eq=False)
class Prices:
    """What a token, a second and a joule are worth in the objective."""

    token: float
    second: float
    joule: float


@dataclass(frozen=True, eq=False)
class Rule:
    """A deterministic rule for every link state, and what it does: one column per state."""

    start: Flags  # [W]
    go: Flags  # [G - 1, C, n, W]
    tokens: Floats  # [W]
    drafted: Floats  # [W] mean draft length
    seconds: Floats  # [W]
    joules: Floats  # [W]


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


def best_rule(world: World, prices: Prices) -> tuple[Rule, float]:
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
    value = stop
    go = np.zeros((costs.max_draft_length - 1, classes, points, states), np.bool_)
    for i in reversed(range(1, costs.max_draft_length)):
        # After token i the next one is paid for, then its class is seen.
        step = world.steps[i - 1]
        gain = prices.token * step.accepted[:, None, None] * survival
        onward = (step.either @ value.reshape(-1, states)).reshape(value.shape) + gain + token[:, i]
        np.greater(onward, stop, out=go[i - 1])
        value = np.maximum(onward, stop)
    ahead = np.einsum("cn,cnw->cw", world.begin, value)
    first = prices.token * float(world.model.initial @ world.model.accepts(0))
    onward = world.model.initial @ ahead + first + token[:, 0]
    promised = prices.token + base + np.maximum(onward, full)
    return _followed(world, onward > full, go), float(world.probability @ promised)


def _followed(world: World, start: Flags, go: Flags) -> Rule:
    """What a rule does on the model, exactly.

    Two measures over (class, grid point, link state) go forward: of rounds in which all is accepted, and of others.
    """
    classes, points, states = world.shape
    lengths = world.costs.max_draft_length
    on = (world.model.initial[:, None] * world.begin)[..., None] * start
    off = np.zeros((classes, points, states))
    tokens, unrejected = np.ones(states), (~start).astype(np.float64)
    drafted = np.zeros((states, lengths))
    for i in range(lengths):
        accept = world.model.accepts(i)[:, None, None]
        on, off = on * accept, off + on * (1.0 - accept)
        survival = on.sum(axis=(0, 1))
        drafted[:, i] = survival + off.sum(axis=(0, 1))
        tokens += survival
        if i == lengths - 1:
            unrejected += survival
            break
        on, off = on * go[i], off * go[i]
        unrejected += survival - on.sum(axis=(0, 1))
        flow = lambda table, mass: (table.T @ mass.reshape(-1, states)).reshape(mass.shape)  # noqa: E731
        on, off = flow(world.steps[i].on, on), flow(world.steps[i].off, off)
    seconds, joules = world.costs.expected(drafted, unrejected)
    return Rule(start, go, tokens, drafted.sum(axis=1), seconds, joules)


def fixed_length(world: World, length: int) -> Rule:
    """The rule that drafts so many tokens, whatever it meets."""
    classes, points, states = world.shape
    steps = np.arange(1, world.costs.max_draft_length) < length
    go = np.broadcast_to(steps[:, None, None, None], (len(steps), classes, points, states))
    tokens, seconds, joules = (table[:, length] for table in fixed_length_tables(world.model, world.costs))
    return Rule(np.full(states, length > 0), go, tokens, np.full(states, float(length)), seconds, joules)
