"""Tokens per second against a cap on mean power: every method, and above them what the oracles reach."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gelato_experiments import figures
from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Scenario, compare
from gelato_experiments.studies.frontier_oracles import effort, equal_power_rate, model_rows, oracle_rows
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_jax import control, payloads, system
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
        oracle; model. See `_method_rows`, `oracle_rows` and `model_rows`.
    """
    tuning, judging = recording(settings.recording).halves()
    rows: list[Row] = []
    done, total = 0, len(settings.links) * (len(settings.methods) + 2)
    for link in settings.links:
        world = system.preset(settings.device, link, settings.edge)
        payload = payloads.candidates(32)
        scenario = Scenario(
            system=world, payload=payload, vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
        )
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
        halves = tuning.without_prompts(), judging.without_prompts()
        ours = [
            {"kind": "free", "link": link, **row, "feasible": True}
            for name in ("ratio", "ratio_priced")
            for row in compare(METHODS[name], *halves, free, feasible, effort(settings))
        ]
        chosen = {row["cap_w"]: row["setting"] for row in ours if row["method"] == "ratio"}
        rows += ours + oracle_rows(link, halves[1], free, chosen, settings)
        progress("asking oracles inside their model", done + 1, total)
        rows += model_rows(link, halves[0], free, feasible, settings)
        done += 2
    return rows


def _catching_up_free(world: system.System) -> system.System:
    """The world that the oracles are exact in: their rounds are independent, so no round leaves work to a later one.

    Oracles know no prompts either: where they are asked, prompts are left out for all.
    """
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


def _method_rows(
    name: str,
    link: str,
    tuning: Recording,
    judging: Recording,
    scenario: Scenario,
    caps: tuple[float, ...],
    settings: Settings,
) -> list[Row]:
    found = compare(METHODS[name], tuning, judging, scenario, caps, effort(settings))
    return [{"kind": "method", "link": link, **row, "feasible": True} for row in found]


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """What the table says of `ratio`, of priced exits, and of the others."""
    return [
        *_round_level_claims(rows),
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
        cell: equal_power_rate(ours[cell], best[cell]["price"]) / equal_power_rate(best[cell], best[cell]["price"])
        for cell in ours
    }


def _lowest(shares: dict[tuple[str, float], float]) -> str:
    link, cap = min(shares, key=lambda cell: shares[cell])
    return f"lowest {min(shares.values()):.1%} ({link}, cap {cap:g} W), mean {np.mean(list(shares.values())):.1%}"


def _round_level_claims(rows: list[Row]) -> list[Claim]:
    """Against oracle (i) where it is exact, as played on text, and as promised there."""
    ours = _cells(rows, "free", "ratio")
    required = f"at least {ROUND_LEVEL_SHARE:.0%} of oracle (i) in every feasible cell"
    exact = _shares(_cells(rows, "model", "ratio"), _cells(rows, "model", "round-level"))
    played = _shares(ours, _cells(rows, "oracle", "round-level, played"))
    promised = _shares(ours, _cells(rows, "oracle", "round-level"))
    kept = _shares(_cells(rows, "oracle", "round-level, played"), _cells(rows, "oracle", "round-level"))
    paying = _shares(_cells(rows, "method", "ratio"), _cells(rows, "oracle", "round-level"))
    return [
        Claim(
            claim="ratio alone comes up to the best round-level policy of its own information, at equal mean power, "
            "where rounds are independent and the program is exact",
            required=f"{required}, in the fitted model",
            measured=_lowest(exact),
            holds=min(exact.values()) >= ROUND_LEVEL_SHARE,
        ),
        Claim(
            claim="ratio alone comes up to that policy as it is played on recorded text, catching up free for both",
            required=required,
            measured=_lowest(played),
            holds=min(played.values()) >= ROUND_LEVEL_SHARE,
        ),
        Claim(
            claim="ratio alone comes up to what the linear program promises of that policy on recorded text",
            required=f"{required}, catching up free for both",
            measured=f"{_lowest(promised)}; of the promise, the program's own policy keeps {_lowest(kept)}; "
            f"where ratio pays for catching up and the oracle does not, {_lowest(paying)}",
            holds=min(promised.values()) >= ROUND_LEVEL_SHARE,
        ),
    ]


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
