"""What `queue_stability` finds in the exact world: the queue beside its bound, and both ratios against the optimum."""

from collections.abc import Sequence

import numpy as np

from gelato_experiments.methods.compare import mean_and_half
from gelato_experiments.studies.queue_stability.paths import SHARES, worst_path
from gelato_experiments.studies.queue_stability.rules import MUTANTS, in_joules, in_watts
from gelato_experiments.studies.queue_stability.settings import Settings
from gelato_experiments.studies.shared import exact_world
from gelato_experiments.studies.shared.exact_world import ExactWorld
from gelato_experiments.studies.shared.mutants import mutant
from gelato_experiments.study import Row
from gelato_jax import control, simulation
from gelato_jax.control import Controller
from gelato_jax.simulation import Simulation


def queue_caps_j(world: ExactWorld, budget_j: float, weight: float) -> tuple[float, float]:
    """Bounds of the queue of `gelato` with joules a round, whatever its estimate of acceptance is.

    V (r_max - r(0))/E_min + E_max; and, sharper, V times the most of (r(g) - r(0))/(E(g) - E(0)) over states and
    lengths, with what one round can add.

    Args:
        world: whose rounds of no drafts spend at most the budget.
        budget_j: Ebar.
        weight: V.
    """
    tables, lengths = world.tables, np.arange(world.tables.tokens.shape[1])
    gained = (lengths + 1) / tables.seconds - 1 / tables.seconds[:, :1]  # the estimate is at most 1
    dearer = tables.joules - tables.joules[:, :1]
    most = float(tables.joules.max())
    loose = weight * float((gained.max(axis=1) / dearer[:, 1:].min(axis=1)).max()) + most
    return loose, weight * float((gained[:, 1:] / dearer[:, 1:]).max()) + most - budget_j


def gelato_rows(world: ExactWorld, settings: Settings) -> tuple[list[Row], list[Row]]:
    """T2 with joules a round, and the form in watts against the linear program: one program for both."""
    bounded = [in_joules(settings.budget_j, weight) for weight in settings.bound_weights]
    points = [(cap, weight) for cap in settings.ratio_caps_w for weight in settings.ratio_weights]
    capped = [in_watts(cap, weight, estimator=exact_world.certain()) for cap, weight in points]
    found = _exact(world, bounded + capped, settings)
    bound = _bound_rows(world, found, "gelato", list(enumerate(bounded)), settings)
    shares = [
        _share_row(world, found, len(bounded) + number, "gelato", cap, weight)
        for number, (cap, weight) in enumerate(points)
    ]
    return bound, shares


def mutant_rows(world: ExactWorld, settings: Settings) -> list[Row]:
    """The same bound for rules with a part taken out."""
    weights = settings.bound_weights
    rules = [mutant(in_joules(settings.budget_j, v), **parts) for parts in MUTANTS.values() for v in weights]
    found = _exact(world, rules, settings)
    rows = []
    for number, name in enumerate(MUTANTS):
        own = range(number * len(weights), (number + 1) * len(weights))
        rows += _bound_rows(world, found, name, [(index, rules[index]) for index in own], settings)
    return rows


def _exact(world: ExactWorld, rules: list[Controller], settings: Settings, *, history: bool = True) -> Simulation:
    return world.simulate(
        rules, devices=settings.devices, rounds=settings.exact_rounds, seed=settings.seeds[0], history=history
    )


def _bound_rows(
    world: ExactWorld, found: Simulation, name: str, rules: Sequence[tuple[int, Controller]], settings: Settings
) -> list[Row]:
    """The largest queue of any device after any round, beside its bounds; `rules` with their place in `found`."""
    assert found.history is not None
    idle = float(world.tables.joules[:, 0].max())
    rows = []
    for (number, rule), weight in zip(rules, settings.bound_weights, strict=True):
        loose, sharp = queue_caps_j(world, settings.budget_j, weight)
        facts = {"kind": "bound", "rule": name, "budget": settings.budget_j, "penalty_weight": weight}
        queue = {
            "queue_max_j": float(found.history.seen.queue_j[number].max()),
            "bound_j": loose,
            "sharp_bound_j": sharp,
        }
        rows.append({**facts, **queue, "no_draft_j": idle, **worst_path(found, number, rule)})
    return rows


def ratio_rows(world: ExactWorld, settings: Settings) -> list[Row]:
    """`ratio` at the same caps."""
    caps = settings.ratio_caps_w
    weights = [settings.price_j / world.optimum(cap).energy_price for cap in caps]
    rules = [
        control.ratio(power_budget_w=cap, penalty_weight=weight, estimator=exact_world.certain())
        for cap, weight in zip(caps, weights, strict=True)
    ]
    found = _exact(world, rules, settings, history=False)
    return [
        _share_row(world, found, number, "ratio", cap, weight)
        for number, (cap, weight) in enumerate(zip(caps, weights, strict=True))
    ]


def _share_row(world: ExactWorld, found: Simulation, number: int, name: str, cap: float, weight: float) -> Row:
    """A rule's rate as a share of the optimum, moved to the cap by the program's price of power. No prompts there."""
    best, figures = world.optimum(cap), simulation.rates(found, shares=SHARES)
    rate, power = figures.tokens_per_s[number], figures.power_w[number]
    share, half = mean_and_half((rate - best.energy_price * (power - cap)) / best.tokens_per_s)
    row: Row = {"kind": "share", "rule": name, "cap_w": cap, "penalty_weight": weight, "optimum_share": share}
    return row | {"share_half": half, "tokens_per_s": float(rate.mean()), "power_w": float(power.mean())}
