"""What it saves to choose each token's depth, against the best depth for all: joules at equal tokens per second.

The device is the preset's (Qwen2.5-0.5B's seconds and joules at full depth), the shares of work that exits cost are the
recorded draft's own: a modelled combination. As `simulation/recorded.py` says, depth by token is approximate:
token i at exit e is token i of the rollout that stayed at e all along, and the exit's check sees that exit's entropy.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import Rules, Share
from gelato_experiments.methods.base import LENGTHS
from gelato_experiments.methods.compare import mean_and_half, measured
from gelato_experiments.study import Progress, Row
from gelato_jax import control, payloads, simulation, system
from gelato_jax.control import DepthExit, depth_exits
from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Recording

BY_TOKEN = {"static": ("entropy",), "ratio_priced": ("entropy", "priced")}
"""Length rule -> depth rules by token; under a static length nothing has a price."""
SHARES = Share().shares
"""Of the devices, for intervals."""
_TARGETS = 9  # speeds at which two curves are compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        recording: of a pair whose draft has exits.
        device: preset; a token at the last exit costs what one of Qwen2.5-0.5B does there.
        link: preset.
        edge: preset.
        lengths: fixed draft lengths.
        thresholds_nats: of the entropy exit.
        caps_w: caps on mean power, for `ratio_priced`.
        penalty_weight: V of `ratio_priced`.
        devices: simulated under each setting.
        rounds: of each device.
        seed: of texts and channels.
        vocab_size: ids that bits are counted over.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m-60ms"
    edge: str = "rtx3090-7b"
    lengths: tuple[int, ...] = tuple(length for length in LENGTHS if length <= 8)
    thresholds_nats: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    caps_w: tuple[float, ...] = (0.5, 0.6, 0.75, 0.9, 1.1, 1.3, 1.5, math.inf)
    penalty_weight: float = 0.3
    devices: int = 32
    rounds: int = 1000
    seed: int = 0
    vocab_size: int = 151936


QUICK = Settings()
FULL = Settings(
    thresholds_nats=(0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0),
    caps_w=(0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, math.inf),
    devices=64,
    rounds=2500,
)


def depth_exit(rule: str, value: float = 0.0) -> DepthExit:
    """A depth exit of `depth_exits`; all are of one structure, so that one program serves them.

    Args:
        rule: `fixed`, `entropy` or `priced`.
        value: index of the exit, or nats.
    """
    options = {"fixed": depth_exits.fixed(), "entropy": depth_exits.entropy(), "priced": depth_exits.priced()}
    if rule != "priced":
        options[rule] = depth_exits.fixed(int(value)) if rule == "fixed" else depth_exits.entropy(value)
    return control.select_depth_exit(list(options.values()), list(options).index(rule))


class Point(NamedTuple):
    """Figures of one setting by share of the devices, each `[shares]`; `exits [X]` is the share of tokens at each.

    Prompts are counted in tokens per second and watts.
    """

    tokens_per_s: np.ndarray
    power_w: np.ndarray
    draft_length: np.ndarray
    exits: np.ndarray


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Measure every combination of length rule and depth rule; choose on half of the texts, judge on the others.

    Returns:
        Rows of `kind` point (`length_rule`, `depth`, `value`, what was measured, `chosen`: a vertex of its curve) and
        of `kind` saving (`length_rule`, `depth`, `tokens_per_s`, `saved`, `saved_half`).
    """
    tuning, judging = read_recording(settings.recording).halves()
    rows: list[Row] = []
    for number, length_rule in enumerate(BY_TOKEN):
        progress("measuring", number, len(BY_TOKEN))
        made = _members(length_rule, tuning, settings)
        tried = _points(tuning, [_terms(tuning, member, settings) for member in made], settings)
        judged = _points(judging, [_terms(judging, member, settings) for member in made], settings)
        families = {"single": [i for i, member in enumerate(made) if member["depth"] == "fixed"]}
        families |= {
            depth: [i for i, member in enumerate(made) if member["depth"] == depth] for depth in BY_TOKEN[length_rule]
        }
        chosen = {name: hull([tried[i] for i in members], members) for name, members in families.items()}
        for index, (member, point) in enumerate(zip(made, judged, strict=True)):
            rows.append(_row(length_rule, member, point, any(index in vertices for vertices in chosen.values())))
        single = [judged[i] for i in chosen["single"]]
        for depth in BY_TOKEN[length_rule]:
            for speed, saved in savings(single, [judged[i] for i in chosen[depth]]):
                mean, half = mean_and_half(saved)
                row = {"kind": "saving", "length_rule": length_rule, "depth": depth}
                rows.append({**row, "tokens_per_s": speed, "saved": mean, "saved_half": half})
    return rows


def _members(length_rule: str, recording: Recording, settings: Settings) -> list[Mapping[str, Any]]:
    """Combinations of a depth rule with lengths or caps."""
    exits = range(len(recording.work))
    depths = [("fixed", float(exit)) for exit in exits] + [("entropy", nats) for nats in settings.thresholds_nats]
    depths += [("priced", 0.0)] if "priced" in BY_TOKEN[length_rule] else []
    levels = settings.lengths if length_rule == "static" else settings.caps_w
    return [
        {"length_rule": length_rule, "depth": depth, "value": value, "level": level}
        for (depth, value), level in itertools.product(depths, levels)
    ]


def _terms(recording: Recording, member: Mapping[str, Any], settings: Settings) -> Setup:
    level, static = member["level"], member["length_rule"] == "static"
    ratio = control.ratio(power_budget_w=math.inf if static else level, penalty_weight=settings.penalty_weight)
    rules = Rules(
        control.select_controller([control.static(int(level) if static else 0), ratio], 0 if static else 1),
        control.select_length_exit([control.length_exits.none(), control.length_exits.priced()], 0 if static else 1),
        depth_exit(member["depth"], member["value"]),
    )
    world = system.preset(settings.device, settings.link, settings.edge)
    policy = rules.policy(payloads.candidates(32))
    return simulation.make_setup(
        recording, policy, world, vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
    )


def _points(recording: Recording, terms: Sequence[Setup], settings: Settings) -> list[Point]:
    found = simulation.simulate(
        recording,
        terms,
        devices=settings.devices,
        rounds=settings.rounds,
        warmup=Share().warmup,
        seed=settings.seed,
        folds=SHARES,
    )
    figures = measured(found, SHARES)
    exits = found.totals.exits.sum(axis=1, dtype=np.float64)
    exits /= np.maximum(exits.sum(axis=1, keepdims=True), 1.0)
    return [Point(*row) for row in zip(figures.tokens_per_s, figures.power_w, figures.draft_length, exits, strict=True)]


def hull(points: Sequence[Point], names: Sequence[int]) -> list[int]:
    """Names of the points that no mixture of others beats: the upper hull in watts and tokens/s, ascending."""
    order = sorted(range(len(points)), key=lambda i: (points[i].power_w.mean(), -points[i].tokens_per_s.mean()))
    kept: list[tuple[float, float, int]] = []
    for i in order:
        power, rate = float(points[i].power_w.mean()), float(points[i].tokens_per_s.mean())
        if kept and rate <= kept[-1][1]:
            continue
        while len(kept) > 1 and _slope(kept[-2], (power, rate, i)) >= _slope(kept[-2], kept[-1]):
            kept.pop()
        kept.append((power, rate, i))
    return [names[i] for _, _, i in kept]


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return (b[1] - a[1]) / max(b[0] - a[0], 1e-12)


def savings(single: Sequence[Point], by_token: Sequence[Point]) -> list[tuple[float, np.ndarray]]:
    """Share of the joules a token that the second curve saves of the first, at speeds that both reach.

    Between two points of a curve, a share of the time is spent at each: watts and tokens per second mix alike.

    Args:
        single: points of the first curve.
        by_token: of the second.

    Returns:
        Speeds, and the savings `[shares]` there; empty where the curves share no speed.
    """
    curves = [[points[i] for i in hull(points, range(len(points)))] for points in (single, by_token)]
    means = [[float(point.tokens_per_s.mean()) for point in curve] for curve in curves]
    low, high = max(speeds[0] for speeds in means), min(speeds[-1] for speeds in means)
    if high <= low:
        return []
    found = []
    for speed in np.linspace(low, high, _TARGETS):
        first, second = (_joules_at(speed, curve, speeds) for curve, speeds in zip(curves, means, strict=True))
        found.append((float(speed), 1.0 - second / first))
    return found


def _joules_at(speed: float, curve: Sequence[Point], speeds: Sequence[float]) -> np.ndarray:
    """Joules a token `[shares]` of a curve whose points ascend in mean speed, at a mean speed."""
    place = float(np.interp(speed, speeds, np.arange(len(speeds))))
    below = min(int(place), len(curve) - 1)
    above, weight = min(below + 1, len(curve) - 1), place - below
    power, rate = (
        (1 - weight) * getattr(curve[below], name) + weight * getattr(curve[above], name)
        for name in ("power_w", "tokens_per_s")
    )
    return power / rate


def _row(length_rule: str, member: Mapping[str, Any], point: Point, chosen: bool) -> Row:
    row: Row = {"kind": "point", **member, "length_rule": length_rule, "chosen": chosen}
    row["tokens_per_s"], row["tokens_per_s_half"] = mean_and_half(point.tokens_per_s)
    row["power_w"], row["power_w_half"] = mean_and_half(point.power_w)
    energy = mean_and_half(point.power_w / point.tokens_per_s)
    row["energy_per_token_j"], row["energy_per_token_j_half"] = energy
    row["draft_length"] = float(point.draft_length.mean())
    row["exits"] = json.dumps([round(float(share), 4) for share in point.exits])
    return row
