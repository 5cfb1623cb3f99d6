"""What an energy queue promises on every path: the cap up to the queue itself, and a queue that stays small.

Beside the guarantees stand two weaknesses of the form that is reported of the paper: joules a round are not watts,
and the best ratio in every round is not the best ratio of the sums.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gelato_experiments.inputs import recording
from gelato_experiments.methods.compare import mean_and_half
from gelato_experiments.studies import exact_world
from gelato_experiments.studies.exact_world import ExactWorld
from gelato_experiments.studies.mutants import mutant
from gelato_experiments.studies.queue_claims import MUTANTS, claims
from gelato_experiments.studies.queue_figure import draw
from gelato_experiments.study import Progress, Row, Study
from gelato_jax import control, payloads, simulation, system
from gelato_jax.control import Controller
from gelato_jax.simulation import Recording, Simulation

SHARES = 8  # of the devices, for intervals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        recording: of the pair, for the paths and the delays.
        device: preset.
        edge: preset.
        link: preset, without its delay.
        rtts_ms: delays that joules a round meet; the middle one also serves everything else.
        vocab_size: ids that bits are counted over.
        caps_w: of the paths.
        weights: V of the paths, for each cap.
        budgets_j: joules a round of the paths of `gelato`.
        lengths: rounds after which paths are judged, ascending.
        devices: of every run, a multiple of 8.
        seeds: of the paths.
        cap_w: that joules a round are to match.
        delay_rounds: at each delay.
        budget_j: of the queue's bound, over the joules of any round without drafts.
        bound_weights: V of the queue's bound.
        ratio_caps_w: caps under which both forms are held against the linear program.
        ratio_weights: V of `gelato` there; the best one counts.
        price_j: V lambda of `ratio` there.
        acceptance: of the exact world.
        states: of its channel.
        max_draft_length: G there.
        exact_rounds: of each run in the exact world.
        positions: of its text.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    edge: str = "rtx3090-7b"
    link: str = "5mhz-500m"
    rtts_ms: tuple[int, int, int] = (20, 60, 140)
    vocab_size: int = 151936
    caps_w: tuple[float, ...] = (0.5, 1.0, 1.5)
    weights: tuple[float, ...] = (0.03, 0.3, 3.0)
    budgets_j: tuple[float, ...] = (0.1, 0.2)
    lengths: tuple[int, ...] = (1_000, 10_000, 100_000)
    devices: int = 8
    seeds: tuple[int, ...] = (0,)
    cap_w: float = 1.0
    delay_rounds: int = 5_000
    budget_j: float = 0.08
    bound_weights: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    ratio_caps_w: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    ratio_weights: tuple[float, ...] = (0.003, 0.01, 0.05)
    price_j: float = 3.0
    acceptance: float = 0.75
    states: int = 16
    max_draft_length: int = 12
    exact_rounds: int = 3_000
    positions: int = exact_world.TEXT_POSITIONS


QUICK = Settings()
FULL = Settings(lengths=(1_000, 10_000, 100_000, 1_000_000), delay_rounds=50_000, exact_rounds=12_000)


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Walk the paths, then the delays, then the exact world.

    Returns:
        Rows of `kind` path (T1), delay, bound (T2) and share.
    """
    recorded = recording(settings.recording)
    progress("long paths", 0, 4)
    rows = _path_rows(recorded, settings)
    progress("joules a round against delay", 1, 4)
    rows += _delay_rows(recorded, settings)
    progress("bound of the queue", 2, 4)
    world = exact_world.build(
        _system(settings, settings.rtts_ms[1]),
        states=settings.states,
        acceptance=settings.acceptance,
        max_draft_length=settings.max_draft_length,
        vocab_size=settings.vocab_size,
        positions=settings.positions,
        delays=tuple(rtt / settings.rtts_ms[1] for rtt in settings.rtts_ms),
    )
    bound, per_round = _gelato_rows(world, settings)
    rows += bound + _mutant_rows(world, settings)
    progress("ratio of sums", 3, 4)
    return rows + per_round + _ratio_rows(world, settings)


def _system(settings: Settings, rtt_ms: int) -> system.System:
    return system.preset(settings.device, f"{settings.link}-{rtt_ms}ms", settings.edge)


def _watts(cap: float, weight: float, **more: Any) -> Controller:
    return control.gelato_estimated(power_budget_w=cap, penalty_weight=weight, **more)


def _joules(budget: float, weight: float, **more: Any) -> Controller:
    return control.gelato_estimated(energy_budget_j=budget, penalty_weight=weight, **more)


def _recorded(
    recorded: Recording, rules: Sequence[tuple[Controller, int]], settings: Settings, rounds: int, seed: int
) -> Simulation:
    """Controllers on the recorded text, each at its delay."""
    payload = payloads.candidates(32)
    terms = [
        simulation.make_setup(
            recorded,
            exact_world.lengths_alone(rule, payload),
            _system(settings, rtt),
            vocabularies=payloads.Vocabularies.whole(settings.vocab_size),
        )
        for rule, rtt in rules
    ]
    return simulation.simulate(recorded, terms, devices=settings.devices, rounds=rounds, seed=seed)


def sums(result: Simulation, name: str) -> np.ndarray:
    """A compensated total `[S, D]` in double precision."""
    total = getattr(result.totals, name)
    return np.asarray(total.high, np.float64) + np.asarray(total.low, np.float64)


def _path_rows(recorded: Recording, settings: Settings) -> list[Row]:
    """T1: on every path, sum(E) less what was allowed is at most the queue; and the queue is small beside sum(E)."""
    pairs = [(cap, weight) for cap in settings.caps_w for weight in settings.weights]
    forms = {
        "ratio, watts": [(control.ratio(power_budget_w=cap, penalty_weight=v), cap, v) for cap, v in pairs],
        "gelato": [(_watts(cap, v / 10), cap, v / 10) for cap, v in pairs]
        + [(_joules(budget, v / 10), budget, v / 10) for budget in settings.budgets_j for v in settings.weights],
    }
    rows: list[Row] = []
    middle = settings.rtts_ms[1]
    for name, members in forms.items():
        for seed in settings.seeds:
            for rounds in settings.lengths:
                found = _recorded(recorded, [(rule, middle) for rule, _, _ in members], settings, rounds, seed)
                for number, (rule, budget, weight) in enumerate(members):
                    form = name if name != "gelato" else f"gelato, {_unit(rule)}"
                    facts = {"kind": "path", "rule": form, "budget": budget, "penalty_weight": weight, "seed": seed}
                    rows.append({**facts, **_path(found, number, rule)})
    return rows


def _unit(rule: Controller) -> str:
    return "watts" if float(rule.params.power_budget_w) > 0 else "joules a round"


def _path(found: Simulation, number: int, rule: Controller) -> Row:
    """How a setting's devices kept the path inequality: the worst of them."""
    whole = getattr(rule.params, "whole", rule.params)  # of a mutant: what the rule should have kept
    rounds = found.totals.rounds[number]
    joules = (sums(found, "energy_j") + sums(found, "prompt_j"))[number]
    seconds = (sums(found, "time_s") + sums(found, "prompt_s"))[number]
    queue = found.queue_j[number].astype(float)
    allowed = float(whole.energy_budget_j) * rounds + float(whole.power_budget_w) * seconds
    return {
        "rounds": int(rounds.max()),
        "path_excess": float(((joules - allowed - queue) / joules).max()),
        "queue_share": float((queue / joules).max()),
        "queue_per_round_j": float((queue / rounds).max()),
        "power_w": float(joules.sum() / seconds.sum()),
        "allowed_share": float(joules.sum() / allowed.sum()),
    }


def _delay_rows(recorded: Recording, settings: Settings) -> list[Row]:
    """Mean power of both budgets by delay; joules a round are set to what the cap means at the middle delay."""
    weight, middle = settings.weights[0] / 10, settings.rtts_ms[1]
    size = {"settings": settings, "rounds": settings.delay_rounds, "seed": settings.seeds[0]}
    pilot = _recorded(recorded, [(_watts(settings.cap_w, weight), middle)] * 2, **size)
    budget = settings.cap_w * float(sums(pilot, "time_s")[0].sum() / pilot.totals.rounds[0].sum())
    rules = {"watts": _watts(settings.cap_w, weight), "joules a round": _joules(budget, weight)}
    points = [(name, rtt) for name in rules for rtt in settings.rtts_ms]
    found = _recorded(recorded, [(rules[name], rtt) for name, rtt in points], **size)
    rows = []
    for number, (name, rtt) in enumerate(points):
        seconds, joules, prompt_s, prompt_j = (
            _shares(sums(found, total)[number]) for total in ("time_s", "energy_j", "prompt_s", "prompt_j")
        )
        power, half = mean_and_half((joules + prompt_j) / (seconds + prompt_s))
        rate = float(found.totals.tokens[number].sum() / seconds.sum())
        rows.append(
            {"kind": "delay", "rule": f"gelato, {name}", "rtt_ms": rtt, "cap_w": settings.cap_w, "budget": budget}
            | {"power_w": power, "power_half": half, "tokens_per_s": rate}
        )
    return rows


def _shares(values: np.ndarray) -> np.ndarray:
    return values.reshape(SHARES, -1).sum(axis=1)


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


def _gelato_rows(world: ExactWorld, settings: Settings) -> tuple[list[Row], list[Row]]:
    """T2 with joules a round, and the form in watts against the linear program: one program for both."""
    bounded = [_joules(settings.budget_j, weight) for weight in settings.bound_weights]
    points = [(cap, weight) for cap in settings.ratio_caps_w for weight in settings.ratio_weights]
    capped = [_watts(cap, weight, estimator=exact_world.certain()) for cap, weight in points]
    found = _exact(world, bounded + capped, settings)
    bound = _bound_rows(world, found, "gelato", list(enumerate(bounded)), settings)
    shares = [
        _share_row(world, found, len(bounded) + number, "gelato", cap, weight)
        for number, (cap, weight) in enumerate(points)
    ]
    return bound, shares


def _mutant_rows(world: ExactWorld, settings: Settings) -> list[Row]:
    weights = settings.bound_weights
    rules = [mutant(_joules(settings.budget_j, v), **parts) for parts in MUTANTS.values() for v in weights]
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
        rows.append({**facts, **queue, "no_draft_j": idle, **_path(found, number, rule)})
    return rows


def _ratio_rows(world: ExactWorld, settings: Settings) -> list[Row]:
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
    """A rule's rate as a share of the optimum, moved to the cap by the program's price of power."""
    best = world.optimum(cap)
    seconds, joules = (_shares(sums(found, total)[number]) for total in ("time_s", "energy_j"))
    rate, power = _shares(np.asarray(found.totals.tokens[number], np.float64)) / seconds, joules / seconds
    share, half = mean_and_half((rate - best.energy_price * (power - cap)) / best.tokens_per_s)
    row: Row = {"kind": "share", "rule": name, "cap_w": cap, "penalty_weight": weight, "optimum_share": share}
    return row | {"share_half": half, "tokens_per_s": float(rate.mean()), "power_w": float(power.mean())}


STUDY = Study(
    name="queue_stability",
    question="Does the energy queue keep its guarantees on every path, and where does the paper's form fall short?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
