"""What the weight V of `ratio` buys: its gap to the optimum and its queue against V, with the theorem's bound."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gelato_experiments import figures
from gelato_experiments.methods.compare import mean_and_half
from gelato_experiments.studies import exact_world
from gelato_experiments.studies.exact_world import ExactWorld
from gelato_experiments.studies.mutants import mutant
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_jax import control, system
from gelato_jax.control import Controller
from gelato_jax.simulation import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULE = "ratio"
MUTANTS = {
    "no queue": {"keeps_queue": False},
    "E without Pbar T": {"counts_allowance": False},
    "stale theta": {"learns_rate": False},
}
"""Name -> what is taken out."""
NEAR = 0.01
"""Share of theta* that the gap may have at the largest V."""
QUEUE_NEAR = 0.12
"""Share by which the mean queue may differ from V lambda where V lambda is at least a joule."""
PATH_TOLERANCE = 1e-6
"""Of sum(E)."""
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
    return [
        _row(world, point, weight, _Path(early, number), _Path(late, number))
        for number, (point, weight) in enumerate(zip(points, weights, strict=True))
    ]


def _rule(name: str, cap_w: float, weight: float) -> Controller:
    whole = control.ratio(power_budget_w=cap_w, penalty_weight=weight, estimator=exact_world.certain())
    return whole if name == RULE else mutant(whole, **MUTANTS[name])


class _Path:
    """Sums of one setting by device, in double precision."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        totals = simulation.totals
        self.tokens, self.rounds = totals.tokens[number].astype(float), totals.rounds[number].astype(float)
        self.seconds, self.joules, self.queue_sum = (
            np.float64(total.high[number]) + total.low[number]
            for total in (totals.time_s, totals.energy_j, totals.queue_j)
        )
        self.queue = simulation.queue_j[number].astype(float)


def _row(world: ExactWorld, point: tuple[str, float, float], weight: float, early: _Path, late: _Path) -> Row:
    name, cap, price = point
    best = world.optimum(cap)
    shares = lambda values: values.reshape(SHARES, -1).sum(axis=1)  # noqa: E731
    seconds = shares(late.seconds)
    rate, power = shares(late.tokens) / seconds, shares(late.joules) / seconds
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


def within_bound(rows: Sequence[Row]) -> bool:
    """Whether no gap is beyond B/(V T_min), intervals granted."""
    return all(row["gap_tokens_per_s"] - row["gap_half"] <= row["bound_tokens_per_s"] for row in rows)


def never_rises(rows: Sequence[Row]) -> bool:
    """Whether a larger V never has a larger gap, intervals granted."""
    return all(
        after["gap_tokens_per_s"] - after["gap_half"] <= before["gap_tokens_per_s"] + before["gap_half"]
        for before, after in pairwise(rows)
    )


def comes_near(rows: Sequence[Row]) -> bool:
    """Whether the gap at the largest V is small beside the optimum."""
    return rows[-1]["gap_tokens_per_s"] <= NEAR * rows[-1]["optimum_tokens_per_s"]


def queue_prices(rows: Sequence[Row]) -> bool:
    """Whether the mean queue is near V lambda where that is at least a joule."""
    return all(abs(row["queue_ratio"] - 1.0) <= QUEUE_NEAR for row in rows if row["price_j"] >= 1.0)


def keeps_path(rows: Sequence[Row]) -> bool:
    """Whether sum(E) <= Pbar sum(T) + Q on every device."""
    return all(row["path_excess"] <= PATH_TOLERANCE for row in rows)


CHECKS = {
    "bound": within_bound,
    "fall": never_rises,
    "near": comes_near,
    "queue": queue_prices,
    "path": keeps_path,
}
"""What holds of the whole rule, for the rows of one rule under one cap by ascending V."""


def of(rows: Sequence[Row], rule: str, cap_w: float) -> list[Row]:
    """The rows of a rule under a cap, by ascending V."""
    return sorted((r for r in rows if r["rule"] == rule and r["cap_w"] == cap_w), key=lambda row: row["price_j"])


def broken(rows: Sequence[Row], rule: str, caps_w: Sequence[float]) -> list[str]:
    """The checks that a rule fails, as `check at cap W`."""
    return [
        f"{name} at {cap:g} W" for cap in caps_w for name, holds in CHECKS.items() if not holds(of(rows, rule, cap))
    ]


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """T3 of the theory: the parts of it for the rule, and that mutants fail."""
    whole = {cap: of(rows, RULE, cap) for cap in settings.caps_w}
    every = [row for cap in whole for row in whole[cap]]
    tightest = max(every, key=lambda row: row["gap_tokens_per_s"] / row["bound_tokens_per_s"])
    ends = ", ".join(
        f"{part[-1]['gap_tokens_per_s']:.3f} +- {part[-1]['gap_half']:.3f} of {part[-1]['optimum_tokens_per_s']:.2f} "
        f"tokens/s at {cap:g} W"
        for cap, part in whole.items()
    )
    queues = [row["queue_ratio"] for row in every if row["price_j"] >= 1.0]
    slopes = ", ".join(f"{_slope(part):.2f} at {cap:g} W" for cap, part in whole.items())
    found = {name: broken(rows, name, settings.caps_w) for name in MUTANTS}
    return [
        Claim(
            claim="the adjusted gap of ratio stays under B/(V T_min)",
            required="gap <= bound at every V, 95 % intervals granted",
            measured=f"at most {tightest['gap_tokens_per_s'] / tightest['bound_tokens_per_s']:.2g} of the bound",
            holds=all(within_bound(part) for part in whole.values()),
        ),
        Claim(
            claim="the gap does not grow with V",
            required="each gap at most the one before it, 95 % intervals granted",
            measured=f"it falls to {ends}; log-log slope {slopes} (reported, not required)",
            holds=all(never_rises(part) for part in whole.values()),
        ),
        Claim(
            claim="ratio comes near the optimum of the linear program",
            required=f"gap at V lambda = {settings.highest_j:g} J at most {NEAR:.0%} of theta*",
            measured=ends,
            holds=all(comes_near(part) for part in whole.values()),
        ),
        Claim(
            claim="the queue is the price of a joule: mean queue/(V lambda) nears 1",
            required=f"within {QUEUE_NEAR:.0%} wherever V lambda >= 1 J",
            measured=f"{min(queues):.3f} to {max(queues):.3f}",
            holds=all(queue_prices(part) for part in whole.values()),
        ),
        Claim(
            claim="mutants are caught",
            required="each fails one of " + ", ".join(CHECKS),
            measured="; ".join(f"{name} fails {', '.join(checks) or 'none'}" for name, checks in found.items()),
            holds=all(found.values()),
        ),
    ]


def _slope(rows: Sequence[Row]) -> float:
    """Slope of log gap over log V, where the gap is more than its interval; nan with fewer than two such points."""
    clear = [row for row in rows if row["gap_tokens_per_s"] > row["gap_half"]]
    if len(clear) < 2:
        return float("nan")
    weight, gap = (np.log([row[name] for row in clear]) for name in ("penalty_weight", "gap_tokens_per_s"))
    return float(np.polyfit(weight, gap, 1)[0])


_MARKS = {"no queue": "s", "E without Pbar T": "^", "stale theta": "D"}


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Gap with its bound, and queue, against V lambda; mutants as marks."""
    figure, axes = figures.new_figure(1, 2)
    left, right = axes[0]
    for cap, color in zip(settings.caps_w, figures.PALETTE, strict=False):
        part = of(rows, RULE, cap)
        price, gap, half, bound, ratio = (
            np.array([row[name] for row in part])
            for name in ("price_j", "gap_tokens_per_s", "gap_half", "bound_tokens_per_s", "queue_ratio")
        )
        left.plot(price, np.maximum(gap, 1e-3), "o-", color=color)
        left.fill_between(price, np.maximum(gap - half, 1e-3), gap + half, color=color, alpha=0.15, linewidth=0)
        left.plot(price, bound, "--", color=color, linewidth=1.2)
        figures.label_line(left, price[-1], max(gap[-1], 1e-3), f"ratio, {cap:g} W", color)
        figures.label_line(left, price[-1], bound[-1], f"bound, {cap:g} W", color)
        right.plot(price, ratio, "o-", color=color)
        figures.label_line(right, price[-1], ratio[-1], f"ratio, {cap:g} W", color)
    _draw_mutants(left, right, rows, settings)
    left.set(
        xscale="log", yscale="log", ylabel="adjusted gap to the LP, tokens/s", title="Gap, and the theorem's bound"
    )
    right.axhline(1.0, color=figures.GREY, linewidth=1.0)
    right.set(xscale="log", yscale="log", ylabel="mean queue / (V λ)", title="Queue")
    for ax in (left, right):
        ax.set_xlabel("V λ, J (λ: the LP's price of power)")
    return figure


def _draw_mutants(left: "Axes", right: "Axes", rows: list[Row], settings: Settings) -> None:
    cap = settings.caps_w[-1]
    for (name, mark), color in zip(_MARKS.items(), figures.PALETTE[len(settings.caps_w) :], strict=False):
        part = of(rows, name, cap)
        price = [row["price_j"] for row in part]
        for ax, column in ((left, "gap_tokens_per_s"), (right, "queue_ratio")):
            values = np.maximum([row[column] for row in part], 1e-3)
            if column == "queue_ratio" and name == "no queue":
                continue  # zero
            ax.plot(price, values, mark, color=color)
            figures.label_line(ax, price[-1], values[-1], f"{name}, {cap:g} W", color)


STUDY = Study(
    name="penalty_sweep",
    question="What do the gap to the optimum and the queue do as V grows, and does the theorem's bound hold?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
