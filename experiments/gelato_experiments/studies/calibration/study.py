"""What entropy says about acceptance: how true the shipped calibration is, and what that is worth in tokens/s.

Everything is read off recordings of the pair but the last part, whose link, device and edge are modelled. The first
draft token of a round is the clean one: nothing before it can hide it. Later ones count with the chance that all before
them were accepted.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import METHODS, Method, Rules, Scenario, Share
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half, measure
from gelato_experiments.studies.calibration.fits import KINDS, UNSCALED, Tokens, calibrations, pairs, tokens
from gelato_experiments.study import Progress, Row
from gelato_jax import control, payloads, system
from gelato_jax.simulation import Recording
from gelato_jax.training.calibrate import predictions

_BINS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is checked.

    Attributes:
        recordings: of one pair, a temperature each.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        link: preset.
        edge: preset.
        caps_w: caps on mean power under which the worth of a calibration is measured; inf for none.
        weights: V of `ratio_priced`, one of which is chosen for each calibration.
        resamples: of the bootstrap over texts.
        devices: simulated under each setting.
        rounds: of each device.
        seed: of texts, channels and the bootstrap.
        vocab_size: ids that bits are counted over.
    """

    recordings: tuple[str, ...] = ("short-greedy", "short-sampled")
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m-60ms"
    edge: str = "rtx3090-7b"
    caps_w: tuple[float, ...] = (0.75, 1.25, math.inf)
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    resamples: int = 400
    devices: int = 32
    rounds: int = 1500
    seed: int = 0
    vocab_size: int = 151936


QUICK = Settings()
FULL = Settings(weights=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0), resamples=2000, devices=64, rounds=4000)


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Check the calibration of every recording.

    Returns:
        Rows of `kind` error (by exit, fit and tokens: `ece` with bounds `low` and `high`), bin (a reliability curve),
        next (by class: what is expected of the next token), level (what rescaling to a text's level does) and worth
        (tokens per second of `ratio_priced` with each calibration, under every cap).
    """
    rows: list[Row] = []
    for number, name in enumerate(settings.recordings):
        recording = read_recording(name)
        facts = {"recording": name, "law": "sampled" if recording.temperature > 0 else "greedy"}
        progress("calibration", 2 * number, 2 * len(settings.recordings))
        found = [*_errors(recording, settings), *_next(recording), *_levels(recording)]
        progress("worth", 2 * number + 1, 2 * len(settings.recordings))
        rows += [{**facts, **row} for row in [*found, *_worth(recording, settings)]]
    return rows


def calibration_error(
    predicted: np.ndarray, drawn: Tokens, resamples: int, seed: int
) -> tuple[float, float, float, list[dict[str, float]]]:
    """Expected calibration error, its bootstrap interval over texts, and its bins.

    Bins hold equal counts of tokens and stay those of all texts. A bin's chance differences add to the error, which is
    therefore biased upwards, the bootstrap's bounds more than itself.

    Args:
        predicted: `[M]`.
        drawn: `[M]` what came of them.
        resamples: of the bootstrap.
        seed: of it.

    Returns:
        Error, low and high bound (95 %), and `predicted`, `observed`, `weight` of each bin.
    """
    members = np.searchsorted(np.quantile(predicted, np.arange(1, _BINS) / _BINS), predicted, side="left")
    texts = int(drawn.text.max()) + 1

    def by_text(values: np.ndarray) -> np.ndarray:
        place = drawn.text * _BINS + members
        return np.bincount(place, drawn.weight * values, texts * _BINS).reshape(texts, _BINS)

    gaps, said, mass = by_text(predicted - drawn.outcome), by_text(predicted), by_text(np.ones(len(predicted)))
    draws = np.random.default_rng(seed).multinomial(texts, np.full(texts, 1 / texts), size=resamples)
    again = np.abs(draws @ gaps).sum(axis=1) / np.maximum(draws @ mass.sum(axis=1), 1e-9)
    total, held = mass.sum(axis=0), mass.sum(axis=0) > 0
    means = said.sum(axis=0)[held] / total[held]
    observed = means - gaps.sum(axis=0)[held] / total[held]
    bins = [
        {"predicted": float(p), "observed": float(o), "weight": float(w)}
        for p, o, w in zip(means, observed, total[held], strict=True)
    ]
    low, high = np.quantile(again, (0.025, 0.975))
    return float(np.abs(gaps.sum(axis=0)).sum() / total.sum()), float(low), float(high), bins


def _errors(recording: Recording, settings: Settings) -> list[Row]:
    rows: list[Row] = []
    for exit in range(len(recording.work)):
        for which in ("first", "later"):
            drawn = tokens(recording, exit, later=which == "later")
            every = predictions(recording.calibration, np.repeat(drawn.entropy[:, None], len(recording.work), axis=1))
            for fit, predicted in every.items():
                ece, low, high, bins = calibration_error(predicted[:, exit], drawn, settings.resamples, settings.seed)
                facts = {"exit": exit, "tokens": which, "fit": fit}
                row: Row = {"kind": "error", **facts, "ece": ece, "low": low, "high": high, "count": len(drawn.text)}
                row["predicted"] = float(np.average(predicted[:, exit], weights=drawn.weight))
                row["observed"] = float(np.average(drawn.outcome, weights=drawn.weight))
                rows.append(row)
                if which == "first":
                    rows += [{"kind": "bin", **facts, **entry} for entry in bins]
    return rows


def _next(recording: Recording) -> list[Row]:
    """What the table expects of the token behind an accepted one, by class of that one's entropy, and what came."""
    classes, values, weights = pairs(recording, recording.calibration)
    table = np.asarray(recording.calibration.next_acceptance)
    mass = np.bincount(classes, weights, len(table))
    observed = np.bincount(classes, weights * values, len(table)) / np.maximum(mass, 1e-9)
    return [
        {"kind": "next", "class": number, "predicted": float(said), "observed": float(seen), "weight": float(heavy)}
        for number, (said, seen, heavy) in enumerate(zip(table, observed, mass, strict=True))
    ]


def _levels(recording: Recording) -> list[Row]:
    """Error and Brier score of the deepest exit's curve as it is, and scaled to what is known of its text so far.

    `relative` is the level that exits read: outcomes as a share of what was predicted of the same tokens.
    `rate over mean` compares the outcomes with the calibration's mean over all text instead.
    """
    drawn = tokens(recording, len(recording.work) - 1, later=False)
    columns = np.repeat(drawn.entropy[:, None], len(recording.work), axis=1)
    shape = predictions(recording.calibration, columns)["curve"][:, -1]
    mean, rules = float(recording.calibration.mean_acceptance), control.Estimator.create()
    keep, strong, weak = (float(part) for part in (rules.discount, rules.level_strength, rules.prior_strength))
    wins, said, count = (_before(drawn.text, part, keep) for part in (drawn.outcome, shape, np.ones(len(shape))))
    scales = {
        "as it is": np.ones(len(shape)),
        "relative": (wins + strong * mean) / (said + strong * mean),
        "rate over mean": (wins + weak * mean) / (count + weak) / mean,
    }
    texts, rows = np.bincount(drawn.text), []
    for level, scale in scales.items():
        predicted = np.clip(shape * scale, 0.0, 1.0)
        gaps = np.bincount(drawn.text, predicted - drawn.outcome) / np.maximum(texts, 1)
        row: Row = {"kind": "level", "level": level, "ece": calibration_error(predicted, drawn, 1, 0)[0]}
        row["brier"] = float(np.mean(np.square(predicted - drawn.outcome)))
        row["text_gap"] = float(np.average(np.abs(gaps), weights=texts))
        rows.append(row)
    return rows


def _before(text: np.ndarray, values: np.ndarray, keep: float) -> np.ndarray:
    """Sum of a text's values before each, fading from token to token."""
    sums, sofar = np.empty(len(values)), 0.0
    for index, value in enumerate(values):
        sofar = 0.0 if index and text[index] != text[index - 1] else sofar
        sums[index] = sofar
        sofar = keep * sofar + value
    return sums


def _method(kind: str) -> Method:
    """`ratio_priced`; where a calibration is read unscaled, no evidence moves the row's level from 1."""
    method = METHODS["ratio_priced"]
    if kind != UNSCALED:
        return method

    def build(cap_w: float, **setting: float) -> Rules:
        rules = method.build(cap_w, **setting)
        estimator = dataclasses.replace(rules.controller.estimator, level_strength=jnp.float32(1e9))
        return rules._replace(controller=dataclasses.replace(rules.controller, estimator=estimator))

    return dataclasses.replace(method, build=build)


def _worth(recording: Recording, settings: Settings) -> list[Row]:
    """`ratio_priced` with each calibration, V chosen on half of the texts, judged on the others."""
    world = system.preset(settings.device, settings.link, settings.edge)
    scenario = Scenario(
        system=world, payload=payloads.candidates(32), vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
    )
    effort = Share(devices=settings.devices, rounds=settings.rounds, seed=settings.seed)
    cases = [(kind, cap) for cap in settings.caps_w for kind in KINDS]
    measured = []
    for half in recording.halves():
        known = {kind: dataclasses.replace(half, calibration=fit) for kind, fit in calibrations(half).items()}
        terms = [
            scenario.setup(known[kind], _method(kind), cap, {"penalty_weight": weight})
            for kind, cap in cases
            for weight in settings.weights
        ]
        found = measure(half, terms, effort)
        shape = (len(cases), len(settings.weights), effort.shares)
        measured.append([part.reshape(shape) for part in (found.tokens_per_s, found.power_w, found.draft_length)])
    (rate, power, _), judged = measured
    keeps = power.mean(axis=2) <= np.array([cap for _, cap in cases])[:, None] * (1 + CAP_TOLERANCE)
    best = np.where(
        keeps.any(axis=1), np.where(keeps, rate.mean(axis=2), 0.0).argmax(axis=1), power.mean(axis=2).argmin(axis=1)
    )
    rate, power, length = (part[np.arange(len(cases)), best] for part in judged)
    nothing = {cap: rate[number] for number, (kind, cap) in enumerate(cases) if kind == "constant"}
    rows: list[Row] = []
    for number, (kind, cap) in enumerate(cases):
        row: Row = {
            "kind": "worth",
            "calibration": kind,
            "cap_w": cap,
            "penalty_weight": settings.weights[best[number]],
        }
        row["tokens_per_s"], row["tokens_per_s_half"] = mean_and_half(rate[number])
        row["gain"], row["gain_half"] = mean_and_half(rate[number] / nothing[cap] - 1.0)
        row["power_w"], row["draft_length"] = float(power[number].mean()), float(length[number].mean())
        rows.append(row)
    return rows
