"""What `queue_stability` finds on recorded text: the path inequality over long runs, and power against delay."""

from collections.abc import Sequence

from gelato_experiments.methods.compare import mean_and_half
from gelato_experiments.studies.queue_stability.rules import in_joules, in_watts
from gelato_experiments.studies.queue_stability.settings import Settings
from gelato_experiments.studies.shared import exact_world
from gelato_experiments.study import Row
from gelato_jax import control, payloads, simulation
from gelato_jax.control import Controller
from gelato_jax.simulation import Recording, Simulation

SHARES = 8  # of the devices, for intervals


def _simulated(
    recording: Recording, rules: Sequence[tuple[Controller, int]], settings: Settings, rounds: int, seed: int
) -> Simulation:
    """Controllers on the recorded text, each at its delay."""
    payload = payloads.candidates(32)
    terms = [
        simulation.make_setup(
            recording,
            exact_world.lengths_alone(rule, payload),
            settings.world(rtt),
            vocabularies=payloads.Vocabularies.whole(settings.vocab_size),
        )
        for rule, rtt in rules
    ]
    return simulation.simulate(recording, terms, devices=settings.devices, rounds=rounds, seed=seed)


def path_rows(recording: Recording, settings: Settings) -> list[Row]:
    """T1: on every path, sum(E) less what was allowed is at most the queue; and the queue is small beside sum(E)."""
    pairs = [(cap, weight) for cap in settings.caps_w for weight in settings.weights]
    forms = {
        "ratio, watts": [(control.ratio(power_budget_w=cap, penalty_weight=v), cap, v) for cap, v in pairs],
        "gelato": [(in_watts(cap, v / 10), cap, v / 10) for cap, v in pairs]
        + [(in_joules(budget, v / 10), budget, v / 10) for budget in settings.budgets_j for v in settings.weights],
    }
    rows: list[Row] = []
    middle = settings.rtts_ms[1]
    for name, members in forms.items():
        for seed in settings.seeds:
            for rounds in settings.lengths:
                found = _simulated(recording, [(rule, middle) for rule, _, _ in members], settings, rounds, seed)
                for number, (rule, budget, weight) in enumerate(members):
                    form = name if name != "gelato" else f"gelato, {_unit(rule)}"
                    facts = {"kind": "path", "rule": form, "budget": budget, "penalty_weight": weight, "seed": seed}
                    rows.append({**facts, **worst_path(found, number, rule)})
    return rows


def _unit(rule: Controller) -> str:
    return "watts" if float(rule.params.power_budget_w) > 0 else "joules a round"


def worst_path(found: Simulation, number: int, rule: Controller) -> Row:
    """How a setting's devices kept the path inequality: the worst of them."""
    whole = getattr(rule.params, "whole", rule.params)  # of a mutant: what the rule should have kept
    rounds = found.totals.rounds[number]
    joules = (simulation.total(found, "energy_j") + simulation.total(found, "prompt_j"))[number]
    seconds = (simulation.total(found, "time_s") + simulation.total(found, "prompt_s"))[number]
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


def delay_rows(recording: Recording, settings: Settings) -> list[Row]:
    """Mean power of both budgets by delay; joules a round are set to what the cap means at the middle delay."""
    weight, middle = settings.weights[0] / 10, settings.rtts_ms[1]
    size = {"settings": settings, "rounds": settings.delay_rounds, "seed": settings.seeds[0]}
    pilot = _simulated(recording, [(in_watts(settings.cap_w, weight), middle)] * 2, **size)
    budget = settings.cap_w * float(simulation.total(pilot, "time_s")[0].sum() / pilot.totals.rounds[0].sum())
    rules = {"watts": in_watts(settings.cap_w, weight), "joules a round": in_joules(budget, weight)}
    points = [(name, rtt) for name in rules for rtt in settings.rtts_ms]
    found = _simulated(recording, [(rules[name], rtt) for name, rtt in points], **size)
    figures, rates = simulation.rates(found, shares=SHARES), simulation.rates(found).tokens_per_s
    rows = []
    for number, (name, rtt) in enumerate(points):
        power, half = mean_and_half(figures.power_w[number])
        rows.append(
            {"kind": "delay", "rule": f"gelato, {name}", "rtt_ms": rtt, "cap_w": settings.cap_w, "budget": budget}
            | {"power_w": power, "power_half": half, "tokens_per_s": float(rates[number])}
        )
    return rows
