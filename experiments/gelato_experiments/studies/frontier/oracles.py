"""What the oracles of `frontier` reach: promised by their programs, and played where a policy can be."""

import dataclasses
import json
import math
from typing import Any, NamedTuple

import numpy as np

from gelato_experiments.methods import METHODS, Scenario, compare
from gelato_experiments.methods.compare import measure
from gelato_experiments.methods.mixture import measure_lengths
from gelato_experiments.oracles import (
    EntropyModel,
    RoundLevelOptimum,
    clairvoyant,
    entropy_stopping,
    fit,
    fixed_length_tables,
    round_level,
)
from gelato_experiments.studies.frontier import bounds
from gelato_experiments.studies.frontier.played import lookup
from gelato_experiments.studies.frontier.settings import Settings
from gelato_experiments.study import Row
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Recording

_PLAYS = 3
"""Programs solved for the played policy: over the rounds that `ratio` meets, then over those that the last one met."""


class _Solved(NamedTuple):
    """A round-level program over the rounds that a policy met, and the bins of its states."""

    best: RoundLevelOptimum
    rate_edges: np.ndarray
    level_edges: np.ndarray


def oracle_rows(
    link: str, judging: Recording, scenario: Scenario, chosen: dict[float, str], settings: Settings
) -> list[Row]:
    """Oracles on the texts that methods are judged on, over the rounds that `ratio` meets; `price` is tokens a joule.

    Args:
        link: named in the rows.
        judging: the texts.
        scenario: the world.
        chosen: by cap, the setting (JSON) of `ratio`: its estimator's information is the oracle's.
        settings: of the study.
    """
    rows, size, first, terms_of = [], judging.max_draft_length, {}, {}
    edges = class_edges(judging, settings.entropy_classes)
    for cap, setting in chosen.items():
        terms = scenario.setup(judging, METHODS["ratio"], cap, json.loads(setting))
        met = _met(judging, terms, settings)
        chance, rates = bounds.binned_rates(met, settings.rate_bins)
        costs = bounds.round_costs(rates, terms, size)
        model = fit_met(judging, met, edges)
        tables = fixed_length_tables(model, costs)
        first[cap], terms_of[cap] = _round_level(met, terms, size, cap, settings), terms
        found = {
            "round-level": first[cap].best,
            "round-level, true acceptance": round_level.solve(*_informed(judging, met, terms), power_cap_w=cap),
            "round-level, rate alone": round_level.solve(chance, *tables, power_cap_w=cap),
            "entropy-stopping, fitted model": entropy_stopping.solve(chance, model, costs, power_cap_w=cap),
            "clairvoyant": clairvoyant.solve(chance, model.accepted_lengths(size), costs, power_cap_w=cap),
        }
        rows += [_row("oracle", link, name, cap, **_figures(best)) for name, best in found.items()]
    return rows + _played_rows(link, judging, terms_of, first, settings)


def _played_rows(
    link: str,
    judging: Recording,
    terms_of: dict[float, Setup],
    solved: dict[float, _Solved],
    settings: Settings,
) -> list[Row]:
    """The round-level policies as controllers, on the texts; of each cap the best of `_PLAYS`, at equal power."""
    best: dict[float, Row] = {}
    for play in range(_PLAYS):
        playing = {cap: _playing(terms, solved[cap], settings) for cap, terms in terms_of.items()}
        measured = measure(judging, list(playing.values()), settings.effort)
        for number, cap in enumerate(playing):
            rate, power = measured.tokens_per_s[number].mean(), measured.power_w[number].mean()
            price = solved[cap].best.energy_price
            row = _row(
                "oracle", link, "round-level, played", cap, tokens_per_s=float(rate), power_w=float(power), price=price
            )
            if cap not in best or equal_power_rate(row, price) > equal_power_rate(best[cap], price):
                best[cap] = row
        if play + 1 < _PLAYS:
            size = judging.max_draft_length
            solved = {
                cap: _round_level(_met(judging, terms, settings), terms, size, cap, settings)
                for cap, terms in playing.items()
            }
    return list(best.values())


def _playing(terms: Setup, solved: _Solved, settings: Settings) -> Setup:
    """The same world under a looked-up policy; bins that fell together are padded, so that all caps share a program."""
    rates, levels = len(solved.rate_edges) + 1, len(solved.level_edges) + 1
    table = solved.best.policy.reshape(rates, levels, -1)
    more_rates, more_levels = settings.rate_bins - rates, settings.estimate_bins - levels
    controller = lookup(
        np.pad(table, ((0, more_rates), (0, more_levels), (0, 0))),
        np.pad(solved.rate_edges, (0, more_rates), constant_values=np.inf),
        np.pad(solved.level_edges, (0, more_levels), constant_values=np.inf),
        float(terms.calibration.conditional_acceptance[0]),
        terms.policy.controller.estimator,
    )
    return dataclasses.replace(terms, policy=dataclasses.replace(terms.policy, controller=controller))


def _inner(bins: int) -> np.ndarray:
    return np.arange(1, bins) / bins


def _met(recording: Recording, terms: Setup, settings: Settings) -> bounds.Rounds:
    return bounds.met_rounds(recording, terms, devices=settings.devices, rounds=settings.rounds, seed=settings.seed + 1)


def _row(kind: str, link: str, method: str, cap: float, **figures_of: Any) -> Row:
    return {"kind": kind, "link": link, "method": method, "cap_w": cap, "feasible": True, **figures_of}


def _figures(best: Any) -> dict[str, float]:
    return {"tokens_per_s": best.tokens_per_s, "power_w": best.power_w, "price": best.energy_price}


def _round_level(met: bounds.Rounds, terms: Setup, size: int, cap: float, settings: Settings) -> _Solved:
    """The best policy over what a controller sees, rate and level, and what every length would give there."""
    edges = bounds.quantile_edges(met.uplink_bps, settings.rate_bins)
    marks = bounds.quantile_edges(met.estimate, settings.estimate_bins)
    state = bounds.bin_of(edges, met.uplink_bps) * (len(marks) + 1) + bounds.bin_of(marks, met.estimate)
    states = bounds.tabulate(met, state, (len(edges) + 1) * (len(marks) + 1), terms, size)
    return _Solved(round_level.solve(*states, power_cap_w=cap), edges, marks)


def _informed(recording: Recording, met: bounds.Rounds, terms: Setup, bins: int = 6) -> bounds.States:
    """States of the rate and the text's own mean accepted length: what knowing it is worth."""
    counts = np.bincount(met.text, minlength=len(recording.categories))
    means = np.bincount(met.text, met.accepted, minlength=len(counts)) / np.maximum(counts, 1)
    edges, marks = bounds.quantile_edges(met.uplink_bps, bins), np.unique(np.quantile(means[met.text], _inner(bins)))
    state = bounds.bin_of(edges, met.uplink_bps) * (len(marks) + 1) + bounds.bin_of(marks, means[met.text])
    return bounds.tabulate(met, state, (len(edges) + 1) * (len(marks) + 1), terms, recording.max_draft_length)


def equal_power_rate(row: Row, price: float) -> float:
    """Tokens per second of a row, moved to its cap by a price of power, tokens per joule."""
    rate, power = row["tokens_per_s"], row["power_w"]
    return rate + price * (row["cap_w"] - power) if price > 0 else rate


def class_edges(recording: Recording, classes: int) -> np.ndarray:
    """Entropies, nats, that part a recording's first drafts into classes of equal size, at its deepest exit."""
    return np.unique(np.quantile(recording.rollouts.entropy[_inside(recording)][:, -1, 0], _inner(classes)))


def _inside(recording: Recording) -> np.ndarray:
    """`[R, N]` positions that texts have: a shorter text's others are padding."""
    return np.arange(recording.rollouts.entropy.shape[1]) < recording.rollouts.positions[:, None]


def fit_met(recording: Recording, met: bounds.Rounds, edges: np.ndarray) -> EntropyModel:
    """The Markov model of the rounds that a policy met, at the deepest exit, by place.

    Any fixed length would have given those rounds the tokens that it gives the model.
    """
    places = recording.rollouts.entropy.shape[1]
    counts = np.bincount(met.text * places + met.position, minlength=len(recording.categories) * places)
    seen = np.flatnonzero(counts)
    entropy, chance = (
        leaf[:, :, -1].reshape(-1, recording.max_draft_length)[seen]
        for leaf in (recording.rollouts.entropy, recording.rollouts.chance)
    )
    return fit(entropy, chance, edges, weight=counts[seen], by_place=True)


def fit_model(recording: Recording, edges: np.ndarray) -> EntropyModel:
    """The Markov model of a recording's deepest exit, its classes' acceptance made to descend strictly."""
    inside = _inside(recording)
    model = fit(recording.rollouts.entropy[inside][:, -1], recording.rollouts.chance[inside][:, -1], edges)
    # Classes of like acceptance keep their order: by a thousandth each.
    falling = np.minimum.accumulate(np.clip(model.acceptance, 0.02, 0.999))
    falling = falling - 1e-3 * np.arange(len(falling)) / len(falling)
    return dataclasses.replace(model, acceptance=falling)


def fixed_row(link: str, judging: Recording, scenario: Scenario, settings: Settings) -> Row:
    """The best fixed length on the texts, and its rate in the model of the rounds that it meets; no cap."""
    lengths = measure_lengths(judging, scenario, settings.effort).tokens_per_s.mean(axis=1)
    best = int(lengths.argmax())
    terms = scenario.setup(judging, METHODS["static"], math.inf, {"draft_length": best})
    met = _met(judging, terms, settings)
    chance, rates = bounds.binned_rates(met, settings.rate_bins)
    model = fit_met(judging, met, class_edges(judging, settings.entropy_classes))
    tokens, seconds, _ = fixed_length_tables(model, bounds.round_costs(rates, terms, judging.max_draft_length))
    rate = float(chance @ tokens[:, best] / (chance @ seconds[:, best]))
    row = {"kind": "fixed", "link": link, "method": "static", "cap_w": math.inf, "feasible": True}
    row["setting"] = json.dumps({"draft_length": best})
    return {**row, "tokens_per_s": float(lengths[best]), "model_tokens_per_s": rate}


def model_rows(
    link: str, tuning: Recording, scenario: Scenario, caps: tuple[float, ...], settings: Settings
) -> list[Row]:
    """`ratio` with and without priced exits where oracle (ii) is exact: a recording drawn from the fitted model."""
    model = fit_model(tuning, class_edges(tuning, settings.entropy_classes))
    drawn = synthetic_recording(model, max_draft_length=tuning.max_draft_length, seed=settings.seed)
    halves = synthetic_recording(model, max_draft_length=tuning.max_draft_length, seed=settings.seed + 1)
    rows = []
    for name in ("ratio", "ratio_priced"):
        found = compare(METHODS[name], halves, drawn, scenario, caps, settings.effort)
        rows += [{"kind": "model", "link": link, **row, "feasible": True} for row in found]
    for cap in caps:
        terms = scenario.setup(drawn, METHODS["ratio_priced"], cap, {"penalty_weight": 1.0})
        met = _met(drawn, terms, settings)
        chance, rates = bounds.binned_rates(met, settings.rate_bins)
        costs = bounds.round_costs(rates, terms, drawn.max_draft_length)
        best = entropy_stopping.solve(chance, model, costs, power_cap_w=cap)
        rows.append(_row("model", link, "entropy-stopping", cap, **_figures(best)))
        tables, lengths = fixed_length_tables(model, costs), model.accepted_lengths(drawn.max_draft_length)
        for name, found in (
            ("round-level", round_level.solve(chance, *tables, power_cap_w=cap)),
            ("clairvoyant", clairvoyant.solve(chance, lengths, costs, power_cap_w=cap)),
        ):
            rows.append(_row("model", link, name, cap, **_figures(found)))
    return rows
