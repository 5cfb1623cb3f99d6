"""Short questions against long documents, and category against category: which method needs no new settings?

Methods are tuned on half of the short texts and judged on others as they are, beside themselves tuned anew. Texts of a
workload are repeated to a common count, so that one program serves all. Link, device and edge are modelled.
"""

import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import METHODS, Scenario, Share
from gelato_experiments.methods.base import LENGTHS, Setting
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half, measure
from gelato_experiments.studies.shared.gains import Cell, figures_of, judge, merged
from gelato_experiments.study import Progress, Row
from gelato_jax import payloads, simulation, system
from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Recording

_MOST_ROWS = 128  # texts of the common count, at most
_FIXED = ("target-only", "static")  # methods of one draft length
_LONGEST = 8  # fixed length that is tried in hindsight: more is never best at these delays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        short: recording of short prompts; methods are tuned on half of it.
        long: recording of long prompts, of the same pair and temperature.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        link: preset.
        edge: preset.
        caps_w: caps on mean power; inf for none.
        methods: names of the registry.
        devices: simulated under each setting.
        rounds: of each device.
        seed: of texts and channels.
        least_texts: of a category that is judged.
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
    least_texts: int = 2
    vocab_size: int = 151936


QUICK = Settings()
FULL = Settings(devices=64, rounds=3000)


class _Workload(NamedTuple):
    name: str
    tuning: Recording
    judging: Recording
    whole: Recording


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge methods on both workloads and on every category.

    Returns:
        Rows of `kind` prompt (what a workload's prompts cost), workload (a method, tuned on `tuned_on`; of its joules a
        token, `prompt_per_token_j` went into prompts before the first round) and category (a method as tuned on short
        texts, beside the best fixed length of that category in hindsight). Prompts are counted in all rates.
    """
    scenario = _scenario(settings)
    effort = Share(devices=settings.devices, rounds=settings.rounds, seed=settings.seed)
    short, long = _workloads(settings)
    cells = {(name, cap): Cell(METHODS[name], scenario, cap) for name in settings.methods for cap in settings.caps_w}
    rows: list[Row] = []
    chosen: dict[tuple[str, float], Setting] = {}
    for number, (load, tuned_on) in enumerate(((short, short), (long, short), (long, long))):
        progress("workloads", number, 4)
        found = judge(cells, tuned_on.tuning, load.judging, effort)
        facts = {"kind": "workload", "workload": load.name, "tuned_on": tuned_on.name}
        for (name, _), judged in found.items():
            prompt = {"prompt_per_token_j": float(judged.figures.prompt_per_token_j.mean())}
            rows.append({**facts, "method": name, **figures_of(judged), **prompt})
        chosen = chosen or {key: judged.setting for key, judged in found.items()}
    progress("categories", 3, 4)
    count = len(short.judging.categories)
    for load in (short, long):
        rows.append(_prompt(load, scenario, effort))
        for category in sorted(set(load.whole.categories)):
            members = [row for row, name in enumerate(load.whole.categories) if name == category]
            if len(members) < settings.least_texts:
                continue
            facts = {"kind": "category", "workload": load.name, "category": category}
            facts |= _acceptance(load.whole.take(members))
            repeated = load.whole.take(np.resize(members, count).tolist())
            rows += [{**facts, **row} for row in _judge(repeated, chosen, cells, effort)]
    return rows


def _scenario(settings: Settings) -> Scenario:
    world = system.preset(settings.device, settings.link, settings.edge)
    return Scenario(
        system=world, payload=payloads.candidates(32), vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
    )


def _workloads(settings: Settings) -> tuple[_Workload, _Workload]:
    """Both workloads, their texts padded and repeated to one shape."""
    loads = {"short": read_recording(settings.short), "long": read_recording(settings.long)}
    positions = max(load.rollouts.entropy.shape[1] for load in loads.values())
    halves = {name: load.halves() for name, load in loads.items()}
    sizes = [len(tuning.categories) for tuning, _ in halves.values()]
    count = math.lcm(*sizes)
    if count > _MOST_ROWS:  # then some texts come once more than others
        count = max(_MOST_ROWS, max(sizes))

    def made(name: str) -> _Workload:
        tuning, judging = (
            _padded(half.take([row % len(half.categories) for row in range(count)]), positions) for half in halves[name]
        )
        return _Workload(name, tuning, judging, _padded(loads[name], positions))

    return made("short"), made("long")


def _padded(recording: Recording, positions: int) -> Recording:
    """Texts with room for more positions, which none of them reaches."""
    rollouts = recording.rollouts
    fields = {field.name: getattr(rollouts, field.name) for field in dataclasses.fields(rollouts)}
    more = positions - rollouts.entropy.shape[1]
    wide = {
        name: np.pad(leaf, [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2)) if leaf.ndim > 1 else leaf
        for name, leaf in fields.items()
    }
    return dataclasses.replace(recording, rollouts=dataclasses.replace(rollouts, **wide))


def _acceptance(recording: Recording) -> Row:
    """First draft tokens' acceptance at the deepest exit; its interval is over texts."""
    rollouts = recording.rollouts
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
    """What prompts cost a device that drafts by request, and the tokens that rounds give it: alike for its methods."""
    terms = _terms(load.judging, scenario, "static", math.inf, {"draft_length": 1})
    pair = [terms] * 2  # one alone would be compiled apart
    found = simulation.simulate(load.judging, pair, devices=effort.devices, rounds=effort.rounds, seed=effort.seed)
    requests = found.requests.sum()
    return {
        "kind": "prompt",
        "workload": load.name,
        **_acceptance(load.whole),
        "prompt_tokens": float(load.judging.rollouts.prompt_tokens.mean()),
        "tokens_per_request": float(found.totals.tokens.sum() / requests),
        "prefill_s": float(simulation.total(found, "prompt_s").sum() / requests),
        "prefill_j": float(simulation.total(found, "prompt_j").sum() / requests),
    }


def _judge(
    recording: Recording, chosen: dict[tuple[str, float], Setting], cells: dict[tuple[str, float], Cell], effort: Share
) -> list[Row]:
    """Methods as tuned on short texts, on one category; `hindsight`: as a share of its best fixed length's tokens/s."""
    scenario = next(iter(cells.values())).scenario
    fixed = {int(setting.get("draft_length", 0)) for (name, _), setting in chosen.items() if name in _FIXED}
    lengths = sorted(fixed | {length for length in LENGTHS if length <= _LONGEST})
    others = [key for key in cells if key[0] not in _FIXED]
    terms = [_terms(recording, scenario, "static", math.inf, {"draft_length": length}) for length in lengths]
    terms += [_terms(recording, scenario, *key, chosen[key]) for key in others]
    found = measure(recording, terms, effort)
    rate, power = found.tokens_per_s.mean(axis=1)[: len(lengths)], found.power_w.mean(axis=1)[: len(lengths)]
    rows: list[Row] = []
    for key in cells:
        name, cap = key
        length = int(chosen[key].get("draft_length", 0))
        place = lengths.index(length) if name in _FIXED else len(lengths) + others.index(key)
        best = int(np.where(power <= cap * (1 + CAP_TOLERANCE), rate, 0.0).argmax())
        row: Row = {"method": name, "cap_w": cap, "setting": json.dumps(dict(chosen[key]))}
        row["tokens_per_s"], row["tokens_per_s_half"] = mean_and_half(found.tokens_per_s[place])
        share = found.tokens_per_s[place] / found.tokens_per_s[best]
        row["hindsight"], row["hindsight_half"] = mean_and_half(share)
        row["hindsight_length"] = lengths[best]
        row["power_w"] = float(found.power_w[place].mean())
        row["energy_per_token_j"] = float(found.energy_per_token_j[place].mean())
        row["draft_length"] = float(found.draft_length[place].mean())
        rows.append(row)
    return rows


def _terms(recording: Recording, scenario: Scenario, name: str, cap_w: float, setting: Setting) -> Setup:
    """A method's rules, of one structure with all others': one program serves them."""
    method = METHODS[name]
    rules = merged(method.build(cap_w, **setting))
    return scenario.setup(recording, dataclasses.replace(method, build=lambda _: rules), cap_w, {})
