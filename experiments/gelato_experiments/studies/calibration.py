"""What entropy says about acceptance: how true the shipped calibration is, and what that is worth in tokens per second.

Everything is read off recordings of the pair but the last part, whose link, device and edge are modelled. The first draft
token of a round is the clean one: nothing before it can hide it. Later ones count with the chance that all before them
were accepted.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gelato_experiments import figures
from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Scenario, Share
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half, measure
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_jax import control, system
from gelato_jax.simulation import Recording
from gelato_jax.training.calibrate import class_means, class_of, fit_curve, non_increasing, predictions
from gelato_jax.types import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ERROR = 0.05
"""Expected calibration error that a shipped calibration may have."""
WORTH = 0.02
"""Share of tokens per second that entropy is to be worth; assumed."""
MEMORY = 20.0
"""Tokens of memory of the level that a row's estimate is replaced with here, and `PRIOR` of its prior; assumed."""
PRIOR = 2.0
_BINS = 10
_KINDS = ("shipped", "refitted", "reported", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is checked.

    Attributes:
        recordings: of one pair, a law each.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        link: preset.
        edge: preset.
        cap_w: cap on mean power where the worth of a calibration is measured.
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
    cap_w: float = 0.75
    weights: tuple[float, ...] = (0.03, 0.1, 0.3)
    resamples: int = 400
    devices: int = 32
    rounds: int = 1500
    seed: int = 0
    vocab_size: int = 151936


QUICK = Settings()
FULL = Settings(weights=(0.01, 0.03, 0.1, 0.3, 1.0), resamples=2000, devices=64, rounds=6000)


class Tokens(NamedTuple):
    """Drafted tokens `[M]` of one exit: the text of each, its entropy, its acceptance, the weight it counts with."""

    text: np.ndarray
    entropy: np.ndarray
    outcome: np.ndarray
    weight: np.ndarray


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Check the calibration of every recording.

    Returns:
        Rows of `kind` error (by exit, fit and tokens: `ece` with bounds `low` and `high`), bin (a reliability curve),
        next (by class: what is expected of the next token), level (what rescaling to a text's level does) and worth
        (tokens per second of `ratio_priced` with each calibration, with and without the cap).
    """
    rows: list[Row] = []
    for number, name in enumerate(settings.recordings):
        recorded = recording(name)
        facts = {"recording": name, "law": "sampled" if recorded.temperature > 0 else "greedy"}
        progress("calibration", 2 * number, 2 * len(settings.recordings))
        found = [*_errors(recorded, settings), *_next(recorded), *_levels(recorded)]
        progress("worth", 2 * number + 1, 2 * len(settings.recordings))
        rows += [{**facts, **row} for row in [*found, *_worth(recorded, settings)]]
    return rows


def tokens(recorded: Recording, exit: int, *, later: bool) -> Tokens:
    """First draft tokens of every position, or the later ones weighted by the chance that one reaches them.

    Args:
        recorded: of a pair.
        exit: index.
        later: which.
    """
    rollouts = recorded.rollouts
    inside = np.arange(rollouts.chance.shape[1]) < rollouts.positions[:, None]
    text, _ = np.nonzero(inside)
    entropy = np.asarray(rollouts.entropy[inside][:, exit], np.float64)
    chance = np.asarray(rollouts.chance[inside][:, exit], np.float64)
    if not later:
        return Tokens(text, entropy[:, 0], chance[:, 0], np.ones(len(text)))
    reached = np.cumprod(chance, axis=1)[:, :-1]
    text = np.repeat(text, reached.shape[1])
    return Tokens(text, entropy[:, 1:].reshape(-1), chance[:, 1:].reshape(-1), reached.reshape(-1))


def calibration_error(
    predicted: np.ndarray, drawn: Tokens, resamples: int, seed: int
) -> tuple[float, float, float, list[dict[str, float]]]:
    """Expected calibration error, its bootstrap interval over texts, and its bins.

    Bins hold equal counts of tokens and stay those of all texts. Chance differences of a bin add to an error, so that it
    is biased upwards, the bootstrap's bounds more than itself.

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


def _errors(recorded: Recording, settings: Settings) -> list[Row]:
    rows: list[Row] = []
    for exit in range(len(recorded.work)):
        for which in ("first", "later"):
            drawn = tokens(recorded, exit, later=which == "later")
            every = predictions(recorded.calibration, np.repeat(drawn.entropy[:, None], len(recorded.work), axis=1))
            for fit, predicted in every.items():
                ece, low, high, bins = calibration_error(predicted[:, exit], drawn, settings.resamples, settings.seed)
                facts = {"exit": exit, "tokens": which, "fit": fit}
                rows.append({"kind": "error", **facts, "ece": ece, "low": low, "high": high, "count": len(drawn.text)})
                if which == "first":
                    rows += [{"kind": "bin", **facts, **entry} for entry in bins]
    return rows


def _next(recorded: Recording) -> list[Row]:
    """What the table expects of the token behind an accepted one, by class of that one's entropy, and what came."""
    classes, values, weights = _pairs(recorded, recorded.calibration)
    table = np.asarray(recorded.calibration.next_acceptance)
    mass = np.bincount(classes, weights, len(table))
    observed = np.bincount(classes, weights * values, len(table)) / np.maximum(mass, 1e-9)
    return [
        {"kind": "next", "class": number, "predicted": float(said), "observed": float(seen), "weight": float(heavy)}
        for number, (said, seen, heavy) in enumerate(zip(table, observed, mass, strict=True))
    ]


def _pairs(recorded: Recording, calibration: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class of a first token, acceptance of the second, and chance that the first is accepted, at the deepest exit."""
    rollouts = recorded.rollouts
    inside = np.arange(rollouts.chance.shape[1]) < rollouts.positions[:, None]
    entropy, chance = rollouts.entropy[inside][:, -1], np.asarray(rollouts.chance[inside][:, -1], np.float64)
    return class_of(np.asarray(calibration.class_edges), entropy[:, 0]), chance[:, 1], chance[:, 0]


def _levels(recorded: Recording) -> list[Row]:
    """Error and Brier score of the deepest exit's curve as it is, scaled to a running estimate, and to the text's mean."""
    drawn = tokens(recorded, len(recorded.work) - 1, later=False)
    columns = np.repeat(drawn.entropy[:, None], len(recorded.work), axis=1)
    shape = predictions(recorded.calibration, columns)["curve"][:, -1]
    mean = float(recorded.calibration.mean_acceptance)
    counts = np.bincount(drawn.text)
    own = (np.bincount(drawn.text, drawn.outcome) / np.maximum(counts, 1))[drawn.text]
    rows: list[Row] = []
    for level, rate in (
        ("as it is", np.full(len(own), mean)),
        ("running estimate", _running(drawn, mean)),
        ("text's mean", own),
    ):
        predicted = np.clip(shape * rate / mean, 0.0, 1.0)
        gaps = np.bincount(drawn.text, predicted - drawn.outcome) / np.maximum(counts, 1)
        rows.append(
            {
                "kind": "level",
                "level": level,
                "ece": calibration_error(predicted, drawn, 1, 0)[0],
                "brier": float(np.mean(np.square(predicted - drawn.outcome))),
                "text_gap": float(np.average(np.abs(gaps), weights=counts)),
            }
        )
    return rows


def _running(drawn: Tokens, prior: float) -> np.ndarray:
    """Mean outcome of a text's tokens before each, fading and with a prior, as a row's estimate is."""
    keep, rates = 1.0 - 1.0 / MEMORY, np.empty(len(drawn.text))
    wins = evidence = 0.0
    for index, (text, outcome) in enumerate(zip(drawn.text, drawn.outcome, strict=True)):
        if index and text != drawn.text[index - 1]:
            wins = evidence = 0.0
        rates[index] = (wins + PRIOR * prior) / (evidence + PRIOR)
        wins, evidence = keep * wins + outcome, keep * evidence + 1.0
    return rates


def constant_calibration(calibration: Calibration) -> Calibration:
    """A calibration that expects the mean of every token, whatever its entropy: no information."""
    mean = np.asarray(calibration.mean_acceptance)
    same = {
        name: np.full_like(np.asarray(getattr(calibration, name)), mean)
        for name in ("scale", "class_acceptance", "next_acceptance", "deeper_acceptance")
    }
    return dataclasses.replace(calibration, decay=np.zeros_like(np.asarray(calibration.decay)), **same)


def refitted(recorded: Recording) -> Calibration:
    """The calibration fitted to a recording's own first and second draft tokens; its table of depth is left as it is."""
    old = recorded.calibration
    drawn = [tokens(recorded, exit, later=False) for exit in range(len(recorded.work))]
    fits = [fit_curve(part.entropy, part.outcome) for part in drawn]
    edges, count = np.asarray(old.class_edges), len(old.next_acceptance)
    classes = []
    for part in drawn:
        members = class_of(edges, part.entropy)
        means = class_means(members, part.outcome, count=count)
        classes.append(non_increasing(means, np.bincount(members, minlength=count) + 1.0))
    here, behind, chance = _pairs(recorded, old)
    fields: dict[str, Any] = {
        "scale": [scale for scale, _ in fits],
        "decay": [decay for _, decay in fits],
        "mean_acceptance": drawn[-1].outcome.mean(),
        "class_acceptance": classes,
        "next_acceptance": class_means(here, behind, chance, count=count),
    }
    return dataclasses.replace(old, **{name: np.asarray(value, np.float32) for name, value in fields.items()})


def _calibrations(recorded: Recording) -> dict[str, Calibration]:
    return {
        "shipped": recorded.calibration,
        "refitted": refitted(recorded),
        "reported": control.default_calibration(len(recorded.work)),
        "constant": constant_calibration(recorded.calibration),
    }


def _worth(recorded: Recording, settings: Settings) -> list[Row]:
    """`ratio_priced` with each calibration, V chosen on half of the texts, judged on the others."""
    world = system.preset(settings.device, settings.link, settings.edge)
    scenario = Scenario(system=world, payload=system.payload.candidates(32), vocab_size=settings.vocab_size)
    effort = Share(devices=settings.devices, rounds=settings.rounds, seed=settings.seed)
    cases = [(kind, cap) for cap in (settings.cap_w, math.inf) for kind in _KINDS]
    measured = []
    for half in recorded.halves():
        known = {kind: dataclasses.replace(half, calibration=fit) for kind, fit in _calibrations(half).items()}
        terms = [
            scenario.terms(known[kind], METHODS["ratio_priced"], cap, {"penalty_weight": weight})
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


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """How true it is, law by law, and what it is worth."""
    made = []
    for name in settings.recordings:
        own = [row for row in rows if row["recording"] == name]
        made += [_true(own), _worthy(own, settings), _miscalibrated(own, settings), _level(own)]
    return made


def _of(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _true(rows: list[Row]) -> Claim:
    first = _of(rows, kind="error", tokens="first")
    later = max(row["ece"] for row in _of(rows, kind="error", tokens="later"))
    law = rows[0]["law"]
    said = "; ".join(
        f"exit {row['exit']} {row['fit']} {row['ece']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for row in first
    )
    return Claim(
        claim=f"The shipped calibration is true on texts it was not fitted to, {law}",
        required=f"expected calibration error at most {MOST_ERROR:g} at every exit, curve and classes, first draft tokens",
        measured=f"{said}, over {first[0]['count']} tokens (95 %, bootstrap over texts); later tokens at most {later:.3f}",
        holds=max(row["ece"] for row in first) <= MOST_ERROR,
    )


def _worthy(rows: list[Row], settings: Settings) -> Claim:
    found = {row["cap_w"]: row for row in _of(rows, kind="worth", calibration="shipped")}
    capped, free = found[settings.cap_w], found[math.inf]
    text = lambda row: f"{row['gain']:+.1%} ± {row['gain_half']:.1%}"  # noqa: E731
    return Claim(
        claim=f"What entropy says is worth tokens, {rows[0]['law']}",
        required=f"`ratio_priced` with the shipped calibration has {WORTH:.0%} more tokens/s than with one that expects the "
        f"mean of every token, at {settings.cap_w:g} W",
        measured=f"{text(capped)} at {settings.cap_w:g} W, {text(free)} without a cap (modelled)",
        holds=capped["gain"] >= WORTH,
    )


def _miscalibrated(rows: list[Row], settings: Settings) -> Claim:
    found = {row["calibration"]: row for row in _of(rows, kind="worth", cap_w=settings.cap_w)}
    said = ", ".join(
        f"{kind} {row['tokens_per_s']:.2f} ± {row['tokens_per_s_half']:.2f}" for kind, row in found.items()
    )
    lost = 1.0 - found["shipped"]["tokens_per_s"] / found["refitted"]["tokens_per_s"]
    return Claim(
        claim=f"Refitting on the very texts would gain little, {rows[0]['law']}",
        required=f"the shipped calibration within 1 % of the tokens/s of one refitted on the judged texts, at {settings.cap_w:g} W",
        measured=f"{lost:+.1%} lost; tokens/s {said} (modelled)",
        holds=lost <= 0.01,
    )


def _level(rows: list[Row]) -> Claim:
    found = {row["level"]: row for row in _of(rows, kind="level")}
    said = "; ".join(
        f"{name}: Brier {row['brier']:.4f}, error {row['ece']:.3f}, gap by text {row['text_gap']:.3f}"
        for name, row in found.items()
    )
    return Claim(
        claim=f"Scaling the curve to a row's own level makes it truer, {rows[0]['law']}",
        required="a lower Brier score with the running estimate than without",
        measured=said,
        holds=found["running estimate"]["brier"] < found["as it is"]["brier"],
    )


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Reliability and worth, a column for each law."""
    figure, axes = figures.new_figure(2, len(settings.recordings), panel_height=3.6)
    for column, name in enumerate(settings.recordings):
        own = [row for row in rows if row["recording"] == name]
        _draw_reliability(axes[0, column], own)
        _draw_worth(axes[1, column], own, settings)
    return figure


def _draw_reliability(ax: "Axes", rows: list[Row]) -> None:
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
    exits = sorted({row["exit"] for row in _of(rows, kind="bin")})
    for exit, color in zip(exits, (figures.BLUE, figures.VERMILLION, figures.GREEN), strict=False):
        for fit, look in (("curve", "-"), ("classes", ":")):
            own = sorted(_of(rows, kind="bin", exit=exit, fit=fit), key=lambda row: row["predicted"])
            x, y = [row["predicted"] for row in own], [row["observed"] for row in own]
            ax.plot(x, y, look, color=color, marker="o", markersize=3.5)
            if fit == "curve":
                figures.label_line(ax, x[-1], y[-1], f"exit {exit}", color)
    ax.set_xlabel("predicted acceptance: curve (line), classes (dotted)")
    ax.set_ylabel("measured acceptance, first draft tokens")
    ax.set_title(f"Reliability, {rows[0]['law']}")


def _draw_worth(ax: "Axes", rows: list[Row], settings: Settings) -> None:
    for cap, color, name, shift in (
        (settings.cap_w, figures.BLUE, f"{settings.cap_w:g} W", -0.12),
        (math.inf, figures.ORANGE, "no cap", 0.12),
    ):
        own = [row for kind in _KINDS for row in _of(rows, kind="worth", cap_w=cap, calibration=kind)]
        y = [place + shift for place in range(len(own))]
        x, half = [100 * row["gain"] for row in own], [100 * row["gain_half"] for row in own]
        ax.errorbar(x, y, xerr=half, color=color, marker="o", linestyle="")
        best = int(np.argmax(x))
        figures.label_line(ax, x[best] + half[best], y[best], name, color)
    ax.axvline(0.0, color="0.6", linewidth=1.0)
    ax.set_yticks(range(len(_KINDS)), _KINDS)
    ax.invert_yaxis()
    ax.set_xlabel("tokens/s over those without information (%, modelled)")
    ax.set_title("Worth of a calibration to ratio_priced")


STUDY = Study(
    name="calibration",
    question="How true is what the draft's entropy says about acceptance, and how many tokens per second is it worth?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
