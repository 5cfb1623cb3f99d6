"""Where the gain comes from: payload, outer loop, length exit and depth exit, each changed with the others fixed.

Prompts are counted in tokens per second, watts and joules a token.

The rule of draft sampling is no axis: a recording holds q as it was sampled from, so another draft temperature
cannot be replayed. A row says so.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gelato_experiments import inputs
from gelato_experiments.methods import Method, Rules, Scenario, Share
from gelato_experiments.methods.base import LENGTHS, Setting
from gelato_experiments.methods.compare import mean_and_half
from gelato_experiments.studies.shared.gains import Cell, Judged, alike, figures_of, gain, judge
from gelato_experiments.study import Progress, Row
from gelato_jax import control, payloads, system
from gelato_jax.control import depth_exits, length_exits
from gelato_jax.simulation import Recording

PAYLOADS = {
    "full": payloads.full(),
    "quantized": payloads.quantized(8),
    "top_p": payloads.top_p(0.9),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(32),
}
OUTER, EXITS, DEPTHS = ("static", "gelato", "ratio"), ("none", "bucket", "svip", "priced"), ("last", "first", "entropy")
SQUARES = (("ratio", "bucket"), ("ratio", "svip"), ("gelato", "bucket"))
"""Outer loop and length exit of each 2x2: with and without the one, with and without the other."""
_WEIGHTS = {"gelato": (0.01, 0.1), "ratio": (0.03, 0.1, 0.3, 1.0)}
_STRENGTHS = {"gelato": (10.0,), "ratio": (10.0, 30.0)}  # tokens that the prior of acceptance is worth; as registered
_LIMITS = (3, 12)  # drafts that a static outer loop allows an exit
_BUCKETS = ((0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (1.5, 3.0))  # nats: leak, capacity
_SVIP = (0.2, 0.3, 0.5, 0.8)  # thresholds of sqrt(c H)
_DEPTH_NATS = (0.5, 2.0)
_LAST, _FIRST = -1, 0  # exits
_BESIDE_DEPTH = ("none", "priced")  # length exits that depth exits are tried beside


class Combination(NamedTuple):
    """Rules of a cell."""

    outer: str
    exit: str
    depth: str = "last"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared, and how much is simulated.

    Attributes:
        texts: recordings.
        links: worlds.
        payloads: names of `PAYLOADS`.
        device: draft Qwen2.5-0.5B.
        edge: target of 7B.
        cap_w: a cap that binds, beside none.
        vocab_size: of Qwen2.5, over which bits are counted.
        devices: simulated for each setting.
        rounds: of each device.
        shares: of the devices, for intervals.
        seed: of everything drawn.
    """

    texts: tuple[str, ...] = ("short-sampled",)
    links: tuple[str, ...] = ("1mhz-500m-60ms",)
    payloads: tuple[str, ...] = ("full", "top_p", "scalar", "candidates")
    device: str = "orin-nano-15w"
    edge: str = "vllm-7b"
    cap_w: float = 1.0
    vocab_size: int = 151936
    devices: int = 32
    rounds: int = 600
    shares: int = 8
    seed: int = 0

    @property
    def effort(self) -> Share:
        """How much is simulated."""
        return Share(devices=self.devices, rounds=self.rounds, seed=self.seed, shares=self.shares)


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge every combination with every payload; depth exits other than the last under `candidates` alone."""
    halves = alike([inputs.read_recording(name) for name in settings.texts])
    total = len(settings.texts) * len(settings.payloads)
    rows: list[Row] = []
    for number, (text, (tuning, judging)) in enumerate(zip(settings.texts, halves, strict=True)):
        found: dict[Any, Judged] = {}
        for place, payload in enumerate(settings.payloads):
            progress(f"{text}, {payload}", number * len(settings.payloads) + place, total)
            found |= judge(_cells(settings, payload), tuning, judging, settings.effort)
        sampling = "greedy" if tuning.temperature == 0 else "sampled"
        rows += _rows(settings, {"text": text, "law": sampling}, found, _exit_count(tuning))
    rows.append({"part": "skipped", "axis": "draft sampling", "note": NOT_REPLAYED})
    return rows


NOT_REPLAYED = "only the rule `fixed`: q was recorded as it was sampled from; the real loop has the others"


def _exit_count(recording: Recording) -> int:
    return recording.rollouts.entropy.shape[2]


def combinations(payload: str) -> list[Combination]:
    """Cells of a payload. Under a static loop nothing has a price, so `priced` would never stop there."""
    depths = lambda exit: DEPTHS if payload == "candidates" and exit in _BESIDE_DEPTH else DEPTHS[:1]  # noqa: E731
    all_of_them = [Combination(outer, exit, depth) for outer in OUTER for exit in EXITS for depth in depths(exit)]
    return [one for one in all_of_them if one[:2] != ("static", "priced")]


def _cells(settings: Settings, payload: str) -> dict[Any, Cell]:
    cells = {}
    for link in settings.links:
        scenario = Scenario(
            system=system.preset(settings.device, link, settings.edge),
            payload=PAYLOADS[payload],
            vocabularies=payloads.Vocabularies.whole(settings.vocab_size),
        )
        for cap in (math.inf, settings.cap_w):
            for one in combinations(payload):
                cells[link, cap, payload, one] = Cell(_method(one, math.isinf(cap)), scenario, cap)
    return cells


def _method(one: Combination, uncapped: bool) -> Method:
    """The rules of a cell and the settings that they are tuned over; a weight of the queue is moot without a cap."""

    def build(
        power_budget_w: float, weight=0.0, strength=10.0, length=0, leak=0.0, size=0.0, threshold=0.0, nats=0.0
    ) -> Rules:
        lyapunov: dict[str, Any] = {
            "power_budget_w": power_budget_w,
            "penalty_weight": weight,
            "estimator": control.Estimator.create(prior_strength=strength),
        }
        outer = {
            "static": lambda: control.static(int(length)),
            "gelato": lambda: control.gelato(**lyapunov),
            "ratio": lambda: control.ratio(**lyapunov),
        }
        inner = {
            "none": length_exits.none,
            "bucket": lambda: length_exits.bucket(leak, size),
            "svip": lambda: length_exits.svip(0.15, threshold),
            "priced": length_exits.priced,
        }
        depth = {
            "last": lambda: depth_exits.fixed(_LAST),
            "first": lambda: depth_exits.fixed(_FIRST),
            "entropy": lambda: depth_exits.entropy(nats),
        }
        return Rules(outer[one.outer](), inner[one.exit](), depth[one.depth]())

    name = f"{one.outer}, {one.exit}, {one.depth}"
    return Method(name=name, source="ablation", build=build, grid=_grid(one, uncapped))


def _grid(one: Combination, uncapped: bool) -> tuple[Setting, ...]:
    inner: Sequence[dict[str, float]] = {
        "bucket": [{"leak": leak, "size": size} for leak, size in _BUCKETS],
        "svip": [{"threshold": threshold} for threshold in _SVIP],
    }.get(one.exit, [{}])
    if one.outer == "static":
        outer = [{"length": length} for length in (LENGTHS if one.exit == "none" else _LIMITS)]
    else:
        weights = _WEIGHTS[one.outer][: 1 if uncapped else None]
        outer = [{"weight": weight, "strength": strength} for weight in weights for strength in _STRENGTHS[one.outer]]
    depth = [{"nats": nats} for nats in _DEPTH_NATS] if one.depth == "entropy" else [{}]
    grid = [{**a, **b, **c} for a in outer for b in inner for c in depth]
    # A static loop may always not draft, which keeps any cap that can be kept.
    silent = [{**grid[0], "length": 0}] if one.outer == "static" and one.exit != "none" else []
    return (*silent, *grid)


def _rows(settings: Settings, text: Row, found: dict[Any, Judged], exits: int) -> list[Row]:
    rows: list[Row] = []
    for (link, cap, payload, one), judged in found.items():
        here = {**text, "link": link, "cap_w": cap, "payload": payload}
        cell = {"outer": one.outer, "exit": one.exit, "depth": one.depth}
        base = found[link, cap, payload, Combination("static", "none")]
        shallow = found[link, cap, payload, Combination(one.outer, one.exit)]
        all_of_q = found[link, cap, settings.payloads[0], Combination(*one[:2])]
        rows.append({"part": "cell", **here, **cell, **figures_of(judged)})
        rows.append({"part": "over none", **here, **cell, **gain(judged, base)})
        if one.depth == "last":
            rows.append({"part": "over full", **here, **cell, **gain(judged, all_of_q)})
        elif exits > 1:
            rows.append({"part": "over last", **here, **cell, **gain(judged, shallow)})
    for link in settings.links:
        for cap in (math.inf, settings.cap_w):
            here = {**text, "link": link, "cap_w": cap}
            for payload in settings.payloads:
                cell = lambda outer, exit, p=payload, at=(link, cap): found[*at, p, Combination(outer, exit)]  # noqa: E731
                rows += [row for square in SQUARES for row in _square({**here, "payload": payload}, *square, cell)]
            rows += _shares(settings, here, found)
    return rows


def _square(here: Row, outer: str, exit: str, cell: Any) -> list[Row]:
    """Main effects and interaction of a 2x2 in the logarithm of tokens per second, as percent, paired by share."""
    log = lambda a, b: np.log(cell(a, b).figures.tokens_per_s)  # noqa: E731
    none, loop, inner, both = log("static", "none"), log(outer, "none"), log("static", exit), log(outer, exit)
    effects = {
        "outer": ((loop - none) + (both - inner)) / 2,
        "inner": ((inner - none) + (both - loop)) / 2,
        "interaction": both - loop - inner + none,
    }
    rows = []
    for name, values in effects.items():
        mean, half = mean_and_half(100.0 * np.expm1(values))
        square = {"part": "effect", **here, "outer": outer, "exit": exit, "effect": name}
        rows.append({**square, "rate_gain_pct": mean, "rate_gain_pct_half": half})
    return rows


def _shares(settings: Settings, here: Row, found: dict[Any, Judged]) -> list[Row]:
    """How much of the spread of log tokens per second lies in payload, outer loop, exit, and in their interplay.

    The balanced cells alone, without `priced`.
    """
    table = np.array(
        [
            [
                [
                    np.log(found[here["link"], here["cap_w"], p, Combination(o, e)].figures.tokens_per_s).mean()
                    for e in EXITS[:-1]
                ]
                for o in OUTER
            ]
            for p in settings.payloads
        ]
    )
    table = table - table.mean()
    total = (table**2).mean()
    parts = {"payload": (1, 2), "outer": (0, 2), "inner": (0, 1)}
    shares = {name: (table.mean(axis=axes) ** 2).mean() / max(total, 1e-12) for name, axes in parts.items()}
    shares["interplay"] = 1.0 - sum(shares.values())
    return [{"part": "share", **here, "factor": name, "share_pct": 100.0 * share} for name, share in shares.items()]


QUICK = Settings()
FULL = Settings(
    texts=("short-sampled", "short-greedy"),
    links=("1mhz-500m-60ms", "5mhz-500m-140ms"),
    payloads=("full", "quantized", "top_p", "scalar", "candidates"),
    devices=64,
    rounds=1000,
    shares=16,
)
