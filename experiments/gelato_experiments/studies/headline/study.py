"""The paper's two conditions: what methods gain there, with each paper's payload and with one payload for all.

The paper's constants are unknown, so its figures are set beside ours and never claimed: what is asked is which
part of such a gain comes from the payload, from tuning the baseline, from the controller and from the exits.
Prompts are counted in tokens per second and in joules a token.
"""

import dataclasses
import math
from typing import Any

from gelato_experiments import inputs
from gelato_experiments.methods import METHODS, Method, Rules, Scenario, Share
from gelato_experiments.studies.headline.pairs import pair_of
from gelato_experiments.studies.shared.gains import (
    Cell,
    Judged,
    alike,
    figures_of,
    gain,
    judge,
    only_drafting_and_uplink,
)
from gelato_experiments.study import Progress, Row
from gelato_jax import control, payloads, system
from gelato_jax.control import length_exits
from gelato_jax.simulation import Recording

ALL, PAPER = "all", "drafting and uplink"
"""Which joules count: with waiting and receiving, or as the paper is reported to count."""

_PAYLOADS = {
    "full": payloads.full(),
    "top_p": payloads.top_p(0.9),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(32),
}
OWN = {
    "target-only": ("candidates", "target-only"),
    "dsd": ("full", "static"),
    "dsd fixed": ("full", "fixed"),
    "dssd": ("scalar", "static"),
    "dssd fixed": ("scalar", "fixed"),
    "gelato": ("top_p", "gelato"),
    "ratio": ("candidates", "ratio"),
    "ratio_priced": ("candidates", "ratio_priced"),
}
"""Method -> what it sends, and its rules, each with its paper's payload."""
EQUAL = {
    "target-only": ("candidates", "target-only"),
    "static": ("candidates", "static"),
    "static fixed": ("candidates", "fixed"),
    "static + bucket": ("candidates", "bucket"),
    "gelato": ("candidates", "gelato"),
    "ratio": ("candidates", "ratio"),
    "ratio_priced": ("candidates", "ratio_priced"),
}
"""The same with one payload for all: DSD and DSSD are both `static`."""
BASES = {"own": ("dsd", "dsd fixed", "dssd", "dssd fixed", "target-only"), "equal": ("static", "static fixed")}
"""What gains are counted over."""
STEPS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "payload at a fixed length: full to top_p": (("full", "fixed"), ("top_p", "fixed")),
    "payload at a fixed length: full to scalar": (("full", "fixed"), ("scalar", "fixed")),
    "payload at a fixed length: full to candidates": (("full", "fixed"), ("candidates", "fixed")),
    "payload at the best length: full to top_p": (("full", "static"), ("top_p", "static")),
    "payload at the best length: full to candidates": (("full", "static"), ("candidates", "static")),
    "tuning the length, full": (("full", "fixed"), ("full", "static")),
    "tuning the length, candidates": (("candidates", "fixed"), ("candidates", "static")),
    "controller alone": (("candidates", "static"), ("candidates", "ratio")),
    "exits alone": (("candidates", "static"), ("candidates", "bucket")),
    "controller and priced exits": (("candidates", "static"), ("candidates", "ratio_priced")),
    "exits on top of the controller": (("candidates", "ratio"), ("candidates", "ratio_priced")),
    "paper's controller and bucket": (("candidates", "static"), ("candidates", "gelato")),
}
"""One thing changed at a time: from (payload, rules) to (payload, rules)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared, and how much is simulated.

    Attributes:
        sampled: recording at temperature 1.
        greedy: recording of greedy text.
        links: the paper's two conditions.
        device: draft Qwen2.5-0.5B.
        edge: target of 7B.
        cap_w: a cap that binds, beside none.
        fixed_length: drafts of a static baseline that nobody tuned; assumed.
        vocab_size: of Qwen2.5, over which bits are counted.
        acceptances: of synthetic pairs with the reported alpha(H) = exp(-0.35 H).
        devices: simulated for each setting.
        rounds: of each device.
        shares: of the devices, for intervals.
        seed: of everything drawn.
    """

    sampled: str = "short-sampled"
    greedy: str = "short-greedy"
    links: tuple[str, str] = ("1mhz-500m-60ms", "5mhz-500m-140ms")
    device: str = "orin-nano-15w"
    edge: str = "vllm-7b"
    cap_w: float = 1.0
    fixed_length: int = 5
    vocab_size: int = 151936
    acceptances: tuple[float, ...] = (0.5, 0.7, 0.85)
    devices: int = 32
    rounds: int = 600
    shares: int = 8
    seed: int = 0

    @property
    def effort(self) -> Share:
        """How much is simulated."""
        return Share(devices=self.devices, rounds=self.rounds, seed=self.seed, shares=self.shares)


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge all methods on recorded texts under both conditions, and on pairs of other acceptance."""
    sampled, greedy = inputs.read_recording(settings.sampled), inputs.read_recording(settings.greedy)
    pairs = [pair_of(sampled, acceptance, settings.seed) for acceptance in settings.acceptances]
    names = ["sampled", "greedy", *(f"pair {acceptance:g}" for acceptance in settings.acceptances)]
    rows: list[Row] = []
    for number, (name, halves) in enumerate(zip(names, alike([sampled, greedy, *pairs]), strict=True)):
        progress(name, number, len(names))
        real = number < 2
        worlds = [(link, ALL, cap) for link in settings.links for cap in (math.inf, settings.cap_w)]
        worlds += [(link, PAPER, math.inf) for link in settings.links]
        # Another pair is looked at without a cap only.
        rows += _judge_text(settings, name, halves, worlds if real else [w for w in worlds if w[1:] == (ALL, math.inf)])
    return rows


def _judge_text(
    settings: Settings, text: str, halves: tuple[Recording, Recording], worlds: list[tuple[str, str, float]]
) -> list[Row]:
    """Methods, gains and steps of one recording in every world."""
    wanted = dict.fromkeys([*OWN.values(), *EQUAL.values(), *(end for step in STEPS.values() for end in step)])
    methods = _methods(settings)
    cells = {
        (world, place): Cell(methods[place[1]], _scenario(settings, *world[:2], place[0]), world[2])
        for world in worlds
        for place in wanted
    }
    found = judge(cells, *halves, settings.effort)
    rows = []
    for world in worlds:
        link, accounting, cap = world
        here = {"text": text, "link": link, "accounting": accounting, "cap_w": cap}
        rows += _rows(here, {place: found[world, place] for place in wanted})
    return rows


def _rows(here: Row, found: dict[tuple[str, str], Judged]) -> list[Row]:
    """The rows of one world: figures of methods, their gains, and what each step does."""
    rows: list[Row] = []
    for payload, table in (("own", OWN), ("equal", EQUAL)):
        common = {**here, "payload": payload}
        for name, place in table.items():
            sends = {"sends": place[0], "rules": place[1]}
            rows.append({"part": "method", **common, "method": name, **sends, **figures_of(found[place])})
        rows += [
            {"part": "gain", **common, "method": name, "base": base, **gain(found[place], found[table[base]])}
            for base in BASES[payload]
            for name, place in table.items()
            if name != base
        ]
    for name, (begin, end) in STEPS.items():
        rows.append({"part": "step", **here, "step": name, **gain(found[end], found[begin])})
    for payload, rules in (("full", "fixed"), ("candidates", "fixed"), ("candidates", "static")):
        stage = {"part": "stage", **here, "sends": payload, "rules": rules}
        rows.append({**stage, **figures_of(found[payload, rules])})
    return rows


def _scenario(settings: Settings, link: str, accounting: str, payload: str) -> Scenario:
    world = system.preset(settings.device, link, settings.edge)
    return Scenario(
        system=only_drafting_and_uplink(world) if accounting == PAPER else world,
        payload=_PAYLOADS[payload],
        vocabularies=payloads.Vocabularies.whole(settings.vocab_size),
    )


def _methods(settings: Settings) -> dict[str, Method]:
    """The rules compared: the registry's, a static length that nobody tuned, and the bucket without a controller."""
    registered = {name: METHODS[name] for name in ("target-only", "static", "gelato", "ratio", "ratio_priced")}
    fixed = Method(
        name="fixed",
        source="a static length as papers take it; assumed",
        build=lambda power_budget_w: Rules(control.static(settings.fixed_length)),
    )
    bucket = Method(
        name="bucket",
        source="the inner loop of arXiv 2605.10124 alone",
        build=lambda power_budget_w, draft_length, threshold_nats, capacity_nats: Rules(
            control.static(int(draft_length)), length_exits.bucket(threshold_nats, capacity_nats)
        ),
        grid=_bucket_grid(),
    )
    return {**registered, "fixed": fixed, "bucket": bucket}


def _bucket_grid() -> tuple[dict[str, Any], ...]:
    """No drafts, or the bucket over a long and a short limit."""
    none = {"draft_length": 0, "threshold_nats": 1.0, "capacity_nats": 1.0}
    leaks = ((0.25, 0.5), (0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (1.5, 3.0))
    return (
        none,
        *(
            {"draft_length": length, "threshold_nats": leak, "capacity_nats": size}
            for length in (2, 12)
            for leak, size in leaks
        ),
    )


QUICK = Settings()
FULL = Settings(devices=64, rounds=1500, shares=16, acceptances=(0.5, 0.6, 0.7, 0.8, 0.9))
