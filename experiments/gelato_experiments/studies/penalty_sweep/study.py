"""What the weight V of `ratio` buys: its gap to the optimum and its queue against V, with the theorem's bound."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gelato_experiments.methods.compare import mean_and_half
from gelato_experiments.studies.shared import exact_world
from gelato_experiments.studies.shared.exact_world import ExactWorld
from gelato_experiments.studies.shared.mutants import mutant
from gelato_experiments.study import Progress, Row
from gelato_jax import control, simulation, system
from gelato_jax.control import Controller
from gelato_jax.simulation import Simulation

RULE = "ratio"
MUTANTS = {
    "no queue": {"keeps_queue": False},
    "E without Pbar T": {"counts_allowance": False},
    "stale theta": {"learns_rate": False},
}
"""Name -> what is taken out."""
SHARES = 8  # of the devices, for intervals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is swept, in a world where the linear program is exact (`exact_world`).

    Attributes:
        device: preset.
        link: preset.
        edge: preset.
        caps_w: caps on mean power, binding.
        acceptance: of every draft.
        states: of the channel.
        max_draft_length: G.
        vocab_size: ids that bits are counted over.
        weights: values of V for each cap; V lambda spans `lowest_j` to `highest_j`.
        lowest_j: joules.
        highest_j: joules.
        mutant_prices_j: V lambda of the mutants.
        devices: simulated under each setting, a multiple of 8.
        rounds: of each.
        settling: rounds at the start that the mean queue leaves out.
        seed: of channels and acceptances.
        positions: of the text; few make its end count.
    """

    device: str = "orin-nano-15w"
    link: str = "5mhz-500m-60ms"
    edge: str = "rtx3090-7b"
    caps_w: tuple[float, ...] = (1.0, 1.5)
    acceptance: float = 0.75
    states: int = 16
    max_draft_length: int = 12
    vocab_size: int = 151936
    weights: int = 8
    lowest_j: float = 0.01
    highest_j: float = 10.0
    mutant_prices_j: tuple[float, ...] = (1.0, 10.0)
    devices: int = 64
    rounds: int = 10_000
    settling: int = 2_000
    seed: int = 0
    positions: int = exact_world.TEXT_POSITIONS


QUICK = Settings()
FULL = Settings(weights=16, rounds=40_000)


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Simulate the sweep, then the mutants.

    Returns:
        Rows by `rule`, `cap_w` and `price_j` (V lambda): `gap_tokens_per_s` = theta* - sum(N)/sum(T) +
        lambda (sum(E)/sum(T) - Pbar), its `bound_tokens_per_s` B/(V T_min), `queue_ratio` = mean queue/(V lambda),
        `path_excess` = most of (sum(E) - Pbar sum(T) - Q)/sum(E) over devices.
    """
    world = exact_world.build(
        system.preset(settings.device, settings.link, settings.edge),
        states=settings.states,
        acceptance=settings.acceptance,
        max_draft_length=settings.max_draft_length,
        vocab_size=settings.vocab_size,
        positions=settings.positions,
    )
    progress("sweeping V", 0, 2)
    prices = np.geomspace(settings.lowest_j, settings.highest_j, settings.weights)
    rows = _sweep(world, [(RULE, cap, float(price)) for cap in settings.caps_w for price in prices], settings)
    progress("mutants", 1, 2)
    wrong = [(name, cap, price) for name in MUTANTS for cap in settings.caps_w for price in settings.mutant_prices_j]
    return rows + _sweep(world, wrong, settings)


def _sweep(world: ExactWorld, points: Sequence[tuple[str, float, float]], settings: Settings) -> list[Row]:
    """One row for each (rule, cap, V lambda), all in one program."""
    weights = [price / world.optimum(cap).energy_price for _, cap, price in points]
    rules = [_rule(name, cap, weight) for (name, cap, _), weight in zip(points, weights, strict=True)]
    size = {"devices": settings.devices, "seed": settings.seed}
    early = world.simulate(rules, rounds=settings.settling, **size)  # the first rounds of the same paths
    late = world.simulate(rules, rounds=settings.rounds, **size)
    figures = simulation.rates(late, shares=SHARES)
    return [
        _row(world, point, weight, own, _path(early, number), _path(late, number))
        for number, (point, weight, *own) in enumerate(
            zip(points, weights, figures.tokens_per_s, figures.power_w, strict=True)
        )
    ]


def _rule(name: str, cap_w: float, weight: float) -> Controller:
    whole = control.ratio(power_budget_w=cap_w, penalty_weight=weight, estimator=exact_world.certain())
    return whole if name == RULE else mutant(whole, **MUTANTS[name])


class _Path(NamedTuple):
    """Sums of one setting by device, in double precision; there are no prompts here."""

    rounds: np.ndarray
    seconds: np.ndarray
    joules: np.ndarray
    queue_sum: np.ndarray
    queue: np.ndarray


def _path(found: Simulation, number: int) -> _Path:
    sums = (simulation.total(found, name)[number] for name in ("rounds", "time_s", "energy_j", "queue_j"))
    return _Path(*sums, queue=found.queue_j[number].astype(float))


def _row(
    world: ExactWorld,
    point: tuple[str, float, float],
    weight: float,
    figures: Sequence[np.ndarray],
    early: _Path,
    late: _Path,
) -> Row:
    """A point of the sweep; `figures` are its tokens per second and watts by share of the devices."""
    (name, cap, price), (rate, power) = point, figures
    best = world.optimum(cap)
    shares = lambda values: values.reshape(SHARES, -1).sum(axis=1)  # noqa: E731
    gap, gap_half = mean_and_half(best.tokens_per_s - rate + best.energy_price * (power - cap))
    queue = shares(late.queue_sum - early.queue_sum) / shares(late.rounds - early.rounds)
    queue_mean, queue_half = mean_and_half(queue / price)
    excess = late.joules - float(np.float32(cap)) * late.seconds - late.queue
    drift = float((world.overspent(cap) ** 2).max()) / 2.0
    return {
        "rule": name,
        "mutant": name != RULE,
        "cap_w": cap,
        "penalty_weight": weight,
        "price_j": price,
        "optimum_tokens_per_s": best.tokens_per_s,
        "lambda_tokens_per_j": best.energy_price,
        "tokens_per_s": float(rate.mean()),
        "power_w": float(power.mean()),
        "gap_tokens_per_s": gap,
        "gap_half": gap_half,
        "bound_tokens_per_s": drift / (weight * float(world.tables.seconds.min())),
        "queue_ratio": queue_mean,
        "queue_ratio_half": queue_half,
        "path_excess": float((excess / late.joules).max()),
    }
