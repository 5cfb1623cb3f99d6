"""Tokens per second against a cap on mean power: every method, and above them what the oracles reach."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gelato_experiments import bounds, figures
from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Scenario, Share, compare
from gelato_experiments.oracles import EntropyModel, clairvoyant, entropy_stopping, fit, round_level
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import control, system
from gelato_jax.decoding.records import Terms
from gelato_jax.simulation import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUND_LEVEL_SHARE = 0.99
"""Of oracle (i), that `ratio` is to reach."""
STOPPING_SHARE = 0.97
"""Of oracle (ii), that priced exits are to reach inside its model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        recording: of the pair.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        edge: preset.
        links: presets.
        caps_w: caps on mean power.
        methods: names of the registry.
        devices: simulated under each setting.
        rounds: of each device.
        warmup: rounds before them that do not count: queues settle.
        seed: of texts and channels.
        rate_bins: of the channel, for the oracles.
        estimate_bins: of the acceptance estimate, for oracle (i).
        entropy_classes: for oracle (ii).
        vocab_size: ids that bits are counted over.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    edge: str = "rtx3090-7b"
    links: tuple[str, ...] = ("5mhz-500m-60ms", "1mhz-500m-140ms")
    caps_w: tuple[float, ...] = (0.3, 0.5, 0.75, 1.0, 1.5, 3.0)
    methods: tuple[str, ...] = tuple(METHODS)
    devices: int = 64
    rounds: int = 2000
    warmup: int = 1000
    seed: int = 0
    rate_bins: int = 6
    estimate_bins: int = 6
    entropy_classes: int = 8
    vocab_size: int = 151936


QUICK = Settings()
FULL = Settings(
    links=("5mhz-500m-20ms", "5mhz-500m-60ms", "5mhz-500m-140ms", "1mhz-500m-60ms", "20mhz-100m-20ms"),
    caps_w=(0.3, 0.45, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0),
    rounds=8000,
    warmup=3000,
)


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge every method and oracle under every link and cap.

    Returns:
        Rows of `kind` method, device, infeasible; free: ours where catching up costs nothing, as for the oracles;
        oracle; model. See `_method_rows`, `_oracle_rows` and `_model_rows`.
    """
    tuning, judging = recording(settings.recording).halves()
    rows: list[Row] = []
    done, total = 0, len(settings.links) * (len(settings.methods) + 2)
    for link in settings.links:
        world = system.preset(settings.device, link, settings.edge)
        payload = system.payload.candidates(32)
        scenario = Scenario(system=world, payload=payload, vocab_size=settings.vocab_size)
        floor = control.power_floor_w(world, payload, vocab_size=settings.vocab_size)
        feasible = tuple(cap for cap in settings.caps_w if cap >= floor)
        rows += [_infeasible(link, cap, floor) for cap in settings.caps_w if cap < floor]
        for name in settings.methods:
            progress("judging methods", done, total)
            rows += _method_rows(name, link, tuning, judging, scenario, feasible, settings)
            done += 1
        rows.append(_device_only(link, world))
        progress("asking oracles", done, total)
        free = dataclasses.replace(scenario, system=_catching_up_free(world))
        for name in ("ratio", "ratio_priced"):
            found = compare(METHODS[name], tuning, judging, free, feasible, _effort(settings))
            rows += [{"kind": "free", "link": link, **row, "feasible": True} for row in found]
        rows += _oracle_rows(link, judging, free, feasible, settings)
        progress("asking oracles inside their model", done + 1, total)
        rows += _model_rows(link, tuning, free, feasible, settings)
        done += 2
    return rows


def _catching_up_free(world: system.System) -> system.System:
    """The world that the oracles are exact in: their rounds are independent, so no round leaves work to a later one."""
    nothing = world.device.prefill_s * 0.0
    return dataclasses.replace(world, device=dataclasses.replace(world.device, prefill_s=nothing, prefill_j=nothing))


def _infeasible(link: str, cap: float, floor: float) -> Row:
    """A cap that the device's waiting alone exceeds: marked, never averaged in."""
    return {"kind": "infeasible", "link": link, "method": "-", "cap_w": cap, "floor_w": floor, "feasible": False}


def _device_only(link: str, world: system.System) -> Row:
    """The draft alone, without an edge: another text, of the draft's quality."""
    device = world.device
    return {
        "kind": "device",
        "link": link,
        "method": "device-only",
        "cap_w": math.inf,
        "tokens_per_s": 1.0 / float(device.token_s),
        "power_w": float(device.token_j / device.token_s),
        "energy_per_token_j": float(device.token_j),
        "feasible": True,
    }


def _effort(settings: Settings) -> Share:
    return Share(devices=settings.devices, rounds=settings.rounds, warmup=settings.warmup, seed=settings.seed)


def _method_rows(
    name: str,
    link: str,
    tuning: Recording,
    judging: Recording,
    scenario: Scenario,
    caps: tuple[float, ...],
    settings: Settings,
) -> list[Row]:
    found = compare(METHODS[name], tuning, judging, scenario, caps, _effort(settings))
    return [{"kind": "method", "link": link, **row, "feasible": True} for row in found]


def _oracle_rows(
    link: str, judging: Recording, scenario: Scenario, caps: tuple[float, ...], settings: Settings
) -> list[Row]:
    """Oracles on the texts that methods are judged on, over the rounds `ratio` meets; `price` is tokens a joule."""
    rows, size = [], judging.max_draft_length
    edges = np.unique(np.quantile(judging.rollouts.entropy[:, :, -1, 0], _inner(settings.entropy_classes)))
    model = fit_model(judging, edges)
    for cap in caps:
        terms = scenario.terms(judging, METHODS["ratio"], cap, {"penalty_weight": 1.0})
        met = _met(judging, terms, settings)
        chance, rates = bounds.binned_rates(met, settings.rate_bins)
        costs = bounds.round_costs(rates, terms, size)
        lengths = np.bincount(met.standing, minlength=size + 1) / len(met.standing)
        found = {
            "round-level": round_level.solve(*_round_level(met, terms, size, settings), power_cap_w=cap),
            "round-level, true acceptance": round_level.solve(*_informed(judging, met, terms), power_cap_w=cap),
            "entropy-stopping, fitted model": entropy_stopping.solve(chance, model, costs, power_cap_w=cap),
            "clairvoyant": clairvoyant.solve(chance, lengths, costs, power_cap_w=cap),
        }
        rows += [_row("oracle", link, name, cap, **_figures(best)) for name, best in found.items()]
    return rows


def _inner(bins: int) -> np.ndarray:
    return np.arange(1, bins) / bins


def _met(recorded: Recording, terms: Terms, settings: Settings) -> bounds.Rounds:
    return bounds.met_rounds(recorded, terms, devices=settings.devices, rounds=settings.rounds, seed=settings.seed + 1)


def _row(kind: str, link: str, method: str, cap: float, **figures_of: Any) -> Row:
    return {"kind": kind, "link": link, "method": method, "cap_w": cap, "feasible": True, **figures_of}


def _figures(best: Any) -> dict[str, float]:
    return {"tokens_per_s": best.tokens_per_s, "power_w": best.power_w, "price": best.energy_price}


def _round_level(met: bounds.Rounds, terms: Terms, size: int, settings: Settings) -> bounds.States:
    """States that a controller sees, rate and estimate; what every length would give in them."""
    edges = bounds.quantile_edges(met.uplink_bps, settings.rate_bins)
    marks = bounds.quantile_edges(met.estimate, settings.estimate_bins)
    state = bounds.bin_of(edges, met.uplink_bps) * (len(marks) + 1) + bounds.bin_of(marks, met.estimate)
    return bounds.tabulate(met, state, (len(edges) + 1) * (len(marks) + 1), terms, size)


def _at_equal_power(rate: float, power: float, cap: float, price: float) -> float:
    """Tokens per second moved to the cap by the LP's price of power, tokens per joule."""
    return rate + price * (cap - power) if price > 0 else rate


def _informed(recorded: Recording, met: bounds.Rounds, terms: Terms, bins: int = 6) -> bounds.States:
    """As `_round_level`, with the text's own mean accepted length in place of the estimate: the value of knowing it."""
    counts = np.bincount(met.text, minlength=len(recorded.categories))
    means = np.bincount(met.text, met.standing, minlength=len(counts)) / np.maximum(counts, 1)
    edges, marks = bounds.quantile_edges(met.uplink_bps, bins), np.unique(np.quantile(means[met.text], _inner(bins)))
    state = bounds.bin_of(edges, met.uplink_bps) * (len(marks) + 1) + bounds.bin_of(marks, means[met.text])
    return bounds.tabulate(met, state, (len(edges) + 1) * (len(marks) + 1), terms, recorded.max_draft_length)


def fit_model(recorded: Recording, edges: np.ndarray) -> EntropyModel:
    """The Markov model of a recording's deepest exit, its classes' acceptance made to descend strictly."""
    positions = recorded.rollouts.positions
    inside = np.arange(recorded.rollouts.entropy.shape[1]) < positions[:, None]
    model = fit(recorded.rollouts.entropy[inside][:, -1], recorded.rollouts.chance[inside][:, -1], edges)
    # Classes of like acceptance keep their order: by a thousandth each.
    falling = np.minimum.accumulate(np.clip(model.acceptance, 0.02, 0.999))
    falling = falling - 1e-3 * np.arange(len(falling)) / len(falling)
    return EntropyModel(initial=model.initial, transition=model.transition, acceptance=falling)


def _model_rows(
    link: str, tuning: Recording, scenario: Scenario, caps: tuple[float, ...], settings: Settings
) -> list[Row]:
    """`ratio` with and without priced exits where oracle (ii) is exact: a recording drawn from the fitted model."""
    edges = np.unique(np.quantile(tuning.rollouts.entropy[:, :, -1, 0], _inner(settings.entropy_classes)))
    model = fit_model(tuning, edges)
    drawn = synthetic_recording(model, max_draft_length=tuning.max_draft_length, seed=settings.seed)
    halves = synthetic_recording(model, max_draft_length=tuning.max_draft_length, seed=settings.seed + 1)
    rows = []
    for name in ("ratio", "ratio_priced"):
        found = compare(METHODS[name], halves, drawn, scenario, caps, _effort(settings))
        rows += [{"kind": "model", "link": link, **row, "feasible": True} for row in found]
    for cap in caps:
        terms = scenario.terms(drawn, METHODS["ratio_priced"], cap, {"penalty_weight": 1.0})
        met = _met(drawn, terms, settings)
        chance, rates = bounds.binned_rates(met, settings.rate_bins)
        costs = bounds.round_costs(rates, terms, drawn.max_draft_length)
        best = entropy_stopping.solve(chance, model, costs, power_cap_w=cap)
        rows.append(_row("model", link, "entropy-stopping", cap, **_figures(best)))
        tables = entropy_stopping.fixed_length_tables(model, costs)
        rows.append(
            _row("model", link, "round-level", cap, **_figures(round_level.solve(chance, *tables, power_cap_w=cap)))
        )
    return rows


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """What the table says of `ratio`, of priced exits, and of the others."""
    return [
        _round_level_claim(rows),
        _stopping_claim(rows),
        _distance_claim(rows),
        _information_claim(rows),
        *_beaten_claims(rows),
        _infeasible_claim(settings, rows),
    ]


def _cells(rows: list[Row], kind: str, method: str) -> dict[tuple[str, float], Row]:
    return {(row["link"], row["cap_w"]): row for row in rows if row["kind"] == kind and row["method"] == method}


def _shares(ours: dict, best: dict) -> dict[tuple[str, float], float]:
    """Share of an oracle's rate in each cell, at equal power."""
    return {
        cell: _at_equal_power(ours[cell]["tokens_per_s"], ours[cell]["power_w"], cell[1], best[cell]["price"])
        / best[cell]["tokens_per_s"]
        for cell in ours
    }


def _lowest(shares: dict[tuple[str, float], float]) -> str:
    link, cap = min(shares, key=lambda cell: shares[cell])
    return f"lowest {min(shares.values()):.1%} ({link}, cap {cap:g} W), mean {np.mean(list(shares.values())):.1%}"


def _round_level_claim(rows: list[Row]) -> Claim:
    best = _cells(rows, "oracle", "round-level")
    shares = _shares(_cells(rows, "free", "ratio"), best)
    real = _shares(_cells(rows, "method", "ratio"), best)
    return Claim(
        claim="ratio alone comes up to the best round-level policy of its own information, at equal mean power",
        required=f"at least {ROUND_LEVEL_SHARE:.0%} of oracle (i) in every feasible cell, catching up free for both",
        measured=f"{_lowest(shares)}; where ratio pays for catching up and the oracle does not, {_lowest(real)}",
        holds=min(shares.values()) >= ROUND_LEVEL_SHARE,
    )


def _stopping_claim(rows: list[Row]) -> Claim:
    best = _cells(rows, "model", "entropy-stopping")
    shares = _shares(_cells(rows, "model", "ratio_priced"), best)
    return Claim(
        claim="ratio with priced exits comes up to the best entropy-stopping policy where that is exact",
        required=f"at least {STOPPING_SHARE:.0%} of oracle (ii) in every feasible cell",
        measured=_lowest(shares),
        holds=min(shares.values()) >= STOPPING_SHARE,
    )


def _distance_claim(rows: list[Row]) -> Claim:
    ours = _cells(rows, "free", "ratio_priced")
    fitted = _shares(ours, _cells(rows, "oracle", "entropy-stopping, fitted model"))
    seer = _shares(ours, _cells(rows, "oracle", "clairvoyant"))
    return Claim(
        claim="on recorded text, what priced exits leave to the oracles of the fitted model and of foresight",
        required="reported: neither is a bound that a policy could reach on text",
        measured=f"of (ii) {_lowest(fitted)}; of (iii) {_lowest(seer)}",
        holds=None,
    )


def _information_claim(rows: list[Row]) -> Claim:
    blind, seeing = _cells(rows, "oracle", "round-level"), _cells(rows, "oracle", "round-level, true acceptance")
    leads = [seeing[cell]["tokens_per_s"] / blind[cell]["tokens_per_s"] - 1.0 for cell in blind]
    return Claim(
        claim="what knowing each text's true mean acceptance would add to the estimate",
        required="reported",
        measured=f"{min(leads):+.1%} to {max(leads):+.1%} tokens/s",
        holds=None,
    )


def _beaten_claims(rows: list[Row]) -> list[Claim]:
    """One claim over all other methods, and one for each that breaks it."""
    ours = _cells(rows, "method", "ratio_priced")
    names = {row["method"] for row in rows if row["kind"] == "method"} - {"ratio_priced"}
    winners = []
    for name in sorted(names):
        wins = [
            (theirs["tokens_per_s"] / ours[cell]["tokens_per_s"] - 1.0, cell)
            for cell, theirs in _cells(rows, "method", name).items()
            if theirs["keeps_cap"]
            and theirs["tokens_per_s"] - ours[cell]["tokens_per_s"]
            > theirs["tokens_per_s_half"] + ours[cell]["tokens_per_s_half"]
        ]
        if wins:
            gain, (link, cap) = max(wins)
            winners.append(f"{name} in {len(wins)} cells, at most {gain:+.1%} ({link}, cap {cap:g} W)")
    return [
        Claim(
            claim="no method that keeps the cap beats ratio with priced exits by more than the intervals",
            required="none, in any feasible cell, all sending the same payload",
            measured="; ".join(winners) or f"none of {len(names)} in {len(ours)} cells",
            holds=not winners,
        )
    ]


def _infeasible_claim(settings: Settings, rows: list[Row]) -> Claim:
    marked = [row for row in rows if row["kind"] == "infeasible"]
    under = [f"{row['cap_w']:g} W under {row['floor_w']:.2f} W" for row in marked]
    return Claim(
        claim="caps under the floor of waiting are marked infeasible and enter no average",
        required="every such cap",
        measured="; ".join(sorted(set(under))) or f"no cap of {list(settings.caps_w)} is under its floor",
        holds=all("tokens_per_s" not in row or row["tokens_per_s"] is None for row in marked),
    )


_SHOWN = {
    "ratio_priced": ("ratio + priced exits", figures.VERMILLION),
    "ratio": ("ratio", figures.ORANGE),
    "gelato": ("gelato", figures.BLUE),
    "static": ("static", figures.GREEN),
    "flexspec": ("flexspec", figures.PURPLE),
    "target-only": ("target alone", figures.BLACK),
}


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """A panel for each link; methods that break a cap are not drawn there."""
    figure, axes = figures.new_figure(1, len(settings.links), sharey=True)
    others = {row["method"] for row in rows if row["kind"] == "method"} - set(_SHOWN)
    for axis, link in zip(axes[0], settings.links, strict=True):
        for name in sorted(others):
            _line(axis, rows, "method", name, link, color="0.75", linewidth=0.8)
        for name, (label, color) in _SHOWN.items():
            _line(axis, rows, "method", name, link, label=label, color=color, marker="o", markersize=3)
        _line(axis, rows, "oracle", "round-level", link, label="oracle (i)", color="0.3", linestyle="--")
        axis.set_xscale("log")
        caps = [cap for cap in settings.caps_w if math.isfinite(cap)]
        axis.set_xticks(caps, [f"{cap:g}" for cap in caps])
        axis.minorticks_off()
        axis.set_title(link)
        axis.set_xlabel("cap on mean device power, W")
    axes[0][0].set_ylabel("modelled tokens/s")
    figure.suptitle("Grey: the other methods, where they keep the cap")
    return figure


def _line(axis: Any, rows: list[Row], kind: str, method: str, link: str, label: str = "", **style: Any) -> None:
    points = [
        (row["cap_w"], row["tokens_per_s"])
        for row in rows
        if (row["kind"], row["method"], row["link"]) == (kind, method, link) and row.get("keeps_cap") is not False
    ]
    if points:
        x, y = zip(*sorted(points), strict=True)
        axis.plot(x, y, **style)
        if label:
            figures.label_line(axis, x[-1], y[-1], label, style["color"])


STUDY = Study(
    name="frontier",
    question="What does each method reach under a cap on mean power, and what is the best there is?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
