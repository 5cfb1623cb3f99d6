"""Short questions against long documents, and category against category: which method needs no new settings?

Methods are tuned on half of the short texts and judged on others as they are, beside themselves tuned anew. Texts of a
workload are repeated to a common count, so that one program serves all. Link, device and edge are modelled.
"""

import dataclasses
import json
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Method, Rules, Scenario, Share, compare
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half, measure
from gelato_experiments.studies import workloads_claims, workloads_figure
from gelato_experiments.studies.gains import merged
from gelato_experiments.study import Progress, Row, Study
from gelato_jax import simulation, system
from gelato_jax.simulation import Recording

if TYPE_CHECKING:
    pass

_MOST_ROWS = 128  # texts of the common count, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        short: recording of short prompts; methods are tuned on half of it.
        long: recording of long prompts, of the same pair and law.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        link: preset.
        edge: preset.
        caps_w: caps on mean power; inf for none.
        methods: names of the registry.
        devices: simulated under each setting.
        rounds: of each device.
        seed: of texts and channels.
        vocab_size: ids that bits are counted over.
    """

    short: str = "short-greedy"
    long: str = "long-greedy"
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m-60ms"
    edge: str = "rtx3090-7b"
    caps_w: tuple[float, ...] = (math.inf, 0.75)
    methods: tuple[str, ...] = ("target-only", "static", "gelato", "ratio", "ratio_priced")
    devices: int = 16
    rounds: int = 800
    seed: int = 0
    vocab_size: int = 151936


QUICK = Settings()
FULL = Settings(devices=64, rounds=4000)


class _Workload(NamedTuple):
    name: str
    tuning: Recording
    judging: Recording
    whole: Recording


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge methods on both workloads and on every category.

    Returns:
        Rows of `kind` prompt (what a workload's prompts cost), workload (a method, tuned on `tuned_on`) and
        category (a method as tuned on short texts, beside the best fixed length of that category in hindsight).
    """
    scenario = _scenario(settings)
    effort = Share(devices=settings.devices, rounds=settings.rounds, seed=settings.seed)
    short, long = _workloads(settings)
    rows: list[Row] = []
    for number, name in enumerate(settings.methods):
        progress("workloads", number, len(settings.methods) + 1)
        for load, tuned_on in ((short, short), (long, short), (long, long)):
            found = compare(_method(name), tuned_on.tuning, load.judging, scenario, settings.caps_w, effort)
            rows += [{"kind": "workload", "workload": load.name, "tuned_on": tuned_on.name, **row} for row in found]
    progress("categories", len(settings.methods), len(settings.methods) + 1)
    chosen = {
        (row["method"], row["cap_w"]): json.loads(row["setting"])
        for row in rows
        if row["workload"] == row["tuned_on"] == "short"
    }
    count = len(short.judging.categories)
    for load in (short, long):
        rows.append(_prompt(load, scenario, effort))
        for category in sorted(set(load.whole.categories)):
            members = [row for row, name in enumerate(load.whole.categories) if name == category]
            facts = {
                "kind": "category",
                "workload": load.name,
                "category": category,
                **_acceptance(load.whole.take(members)),
            }
            repeated = load.whole.take(np.resize(members, count))
            rows += [{**facts, **row} for row in _judge(repeated, chosen, scenario, effort, settings)]
    return _with_prompts(rows)


def _method(name: str) -> Method:
    """A method of the registry, its rules of one structure with all others': one program serves them."""
    method = METHODS[name]

    def build(cap_w: float, **setting: float) -> Rules:
        return merged(method.build(cap_w, **setting))

    return dataclasses.replace(method, build=build)


def _scenario(settings: Settings) -> Scenario:
    world = system.preset(settings.device, settings.link, settings.edge)
    return Scenario(system=world, payload=system.payload.candidates(32), vocab_size=settings.vocab_size)


def _workloads(settings: Settings) -> tuple[_Workload, _Workload]:
    """Both workloads, their texts padded and repeated to one shape."""
    loads = {"short": recording(settings.short), "long": recording(settings.long)}
    positions = max(load.rollouts.entropy.shape[1] for load in loads.values())
    halves = {name: load.halves() for name, load in loads.items()}
    sizes = [len(tuning.categories) for tuning, _ in halves.values()]
    count = math.lcm(*sizes)
    if count > _MOST_ROWS:  # then some texts come once more than others
        count = max(_MOST_ROWS, max(sizes))
    repeat = lambda part: _padded(part.take(np.arange(count) % len(part.categories)), positions)  # noqa: E731
    made = [
        _Workload(name, *(repeat(part) for part in halves[name]), _padded(load, positions))
        for name, load in loads.items()
    ]
    return made[0], made[1]


def _padded(recorded: Recording, positions: int) -> Recording:
    """Texts with room for more positions, which none of them reaches."""
    rollouts = recorded.rollouts
    fields = {field.name: getattr(rollouts, field.name) for field in dataclasses.fields(rollouts)}
    more = positions - rollouts.entropy.shape[1]
    wide = {
        name: np.pad(leaf, [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2)) if leaf.ndim > 1 else leaf
        for name, leaf in fields.items()
    }
    return dataclasses.replace(recorded, rollouts=dataclasses.replace(rollouts, **wide))


def _acceptance(recorded: Recording) -> Row:
    """First draft tokens' acceptance at the deepest exit; its interval is over texts."""
    rollouts = recorded.rollouts
    inside = np.arange(rollouts.chance.shape[1]) < rollouts.positions[:, None]
    first = np.where(inside, rollouts.chance[:, :, -1, 0], 0.0)
    sums, counts = first.sum(axis=1), inside.sum(axis=1)
    mean, texts = sums.sum() / counts.sum(), len(sums)
    spread = np.sqrt(np.square(sums - mean * counts).sum() * texts / max(texts - 1, 1)) / counts.sum()
    return {
        "texts": texts,
        "first_acceptance": float(mean),
        "first_acceptance_half": float(1.96 * spread) if texts > 1 else None,
    }


def _prompt(load: _Workload, scenario: Scenario, effort: Share) -> Row:
    """What reading prompts costs the device by request, and the tokens that rounds give it: alike for all methods."""
    terms = scenario.terms(load.judging, _method("target-only"), math.inf, {})
    found = simulation.simulate(load.judging, [terms], devices=effort.devices, rounds=effort.rounds, seed=effort.seed)
    requests = found.requests.sum()
    return {
        "kind": "prompt",
        "workload": load.name,
        **_acceptance(load.whole),
        "prompt_tokens": float(load.judging.rollouts.prompt_tokens.mean()),
        "tokens_per_request": float(found.totals.tokens.sum() / requests),
        "prefill_s": float(found.totals.prefill_s.sum() / requests),
        "prefill_j": float(found.totals.prefill_j.sum() / requests),
    }


def _judge(
    recorded: Recording,
    chosen: dict[tuple[str, float], dict[str, float]],
    scenario: Scenario,
    effort: Share,
    settings: Settings,
) -> list[Row]:
    """Methods as tuned on short texts, on one category."""
    static = _method("static")
    tried = measure(recorded, [scenario.terms(recorded, static, math.inf, s) for s in static.grid], effort)
    rate, power = tried.tokens_per_s.mean(axis=1), tried.power_w.mean(axis=1)
    lengths = [int(setting["draft_length"]) for setting in static.grid]
    rows: list[Row] = []
    for name in settings.methods:
        found, places = tried, [lengths.index(int(chosen[name, cap].get("draft_length", 0))) for cap in settings.caps_w]
        if name not in ("target-only", "static"):  # those two are among the fixed lengths
            terms = [scenario.terms(recorded, _method(name), cap, chosen[name, cap]) for cap in settings.caps_w]
            found, places = measure(recorded, terms, effort), list(range(len(terms)))
        for place, cap in zip(places, settings.caps_w, strict=True):
            best = int(np.where(power <= cap * (1 + CAP_TOLERANCE), rate, 0.0).argmax())
            row: Row = {"method": name, "cap_w": cap, "setting": json.dumps(chosen[name, cap])}
            row["tokens_per_s"], row["tokens_per_s_half"] = mean_and_half(found.tokens_per_s[place])
            share = found.tokens_per_s[place] / tried.tokens_per_s[best]
            row["hindsight"], row["hindsight_half"] = mean_and_half(share)
            row["hindsight_length"] = lengths[best]
            row["power_w"] = float(found.power_w[place].mean())
            row["energy_per_token_j"] = float(found.energy_per_token_j[place].mean())
            row["draft_length"] = float(found.draft_length[place].mean())
            rows.append(row)
    return rows


def _with_prompts(rows: list[Row]) -> list[Row]:
    """Joules a token of a workload with its prompts'."""
    share = {row["workload"]: row["prefill_j"] / row["tokens_per_request"] for row in rows if row["kind"] == "prompt"}
    for row in rows:
        if row["kind"] == "workload":
            row["prompt_per_token_j"] = share[row["workload"]]
            row["energy_per_token_with_prompt_j"] = row["energy_per_token_j"] + share[row["workload"]]
    return rows


STUDY = Study(
    name="workloads",
    question="Which method needs no new settings when short questions give way to long documents?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=workloads_claims.claims,
    draw=workloads_figure.draw,
)
