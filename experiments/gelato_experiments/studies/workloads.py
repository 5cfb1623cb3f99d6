"""Short questions against long documents, and category against category: which method needs no new settings?

Methods are tuned on half of the short texts and judged on others as they are, beside themselves tuned anew. Texts of a
workload are repeated to a common count, so that one program serves all. Link, device and edge are modelled.
"""

import dataclasses
import json
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gelato_experiments import figures
from gelato_experiments.inputs import recording
from gelato_experiments.methods import METHODS, Scenario, Share, compare
from gelato_experiments.methods.compare import CAP_TOLERANCE, mean_and_half, measure
from gelato_experiments.study import Claim, Progress, Row, Study
from gelato_jax import simulation, system
from gelato_jax.simulation import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT = 0.98
"""Share of its own retuned tokens per second that a method which needs no tuning keeps; assumed."""
OURS = "ratio_priced"
_MOST_ROWS = 128  # texts of the common count, at most
_LOOK = {
    "target-only": figures.GREY,
    "static": figures.BLUE,
    "gelato": figures.GREEN,
    "ratio": figures.ORANGE,
    "ratio_priced": figures.VERMILLION,
}


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
            found = compare(METHODS[name], tuned_on.tuning, load.judging, scenario, settings.caps_w, effort)
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
    terms = scenario.terms(load.judging, METHODS["target-only"], math.inf, {})
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
    static = METHODS["static"]
    tried = measure(recorded, [scenario.terms(recorded, static, math.inf, s) for s in static.grid], effort)
    rate, power = tried.tokens_per_s.mean(axis=1), tried.power_w.mean(axis=1)
    lengths = [int(setting["draft_length"]) for setting in static.grid]
    rows: list[Row] = []
    for name in settings.methods:
        found, places = tried, [lengths.index(int(chosen[name, cap].get("draft_length", 0))) for cap in settings.caps_w]
        if name not in ("target-only", "static"):  # those two are among the fixed lengths
            terms = [scenario.terms(recorded, METHODS[name], cap, chosen[name, cap]) for cap in settings.caps_w]
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


def _kept(settings: Settings, rows: list[Row]) -> dict[str, tuple[float, float, bool]]:
    """For each method that has settings: the worst share of retuned tokens per second, its interval, caps kept."""
    found = {
        (row["method"], row["cap_w"], row["tuned_on"]): row
        for row in rows
        if row.get("workload") == "long" and row["kind"] == "workload"
    }
    kept = {}
    for name in settings.methods:
        pairs = [(found[name, cap, "short"], found[name, cap, "long"]) for cap in settings.caps_w]
        shares = [(as_is["tokens_per_s"] / anew["tokens_per_s"], as_is, anew) for as_is, anew in pairs]
        worst, as_is, anew = min(shares, key=lambda entry: entry[0])
        half = worst * math.hypot(*(row["tokens_per_s_half"] / row["tokens_per_s"] for row in (as_is, anew)))
        kept[name] = worst, half, all(as_is["keeps_cap"] for as_is, _ in pairs)
    return kept


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """What changes between workloads, and what does not have to."""
    prompts = {row["workload"]: row for row in rows if row["kind"] == "prompt"}
    made = [_untuned(settings, rows), _everywhere(settings, rows), _lengths(rows), _prompts(rows, prompts)]
    return [claim for claim in made if claim is not None]


def _untuned(settings: Settings, rows: list[Row]) -> Claim:
    kept = {name: entry for name, entry in _kept(settings, rows).items() if name != "target-only"}
    said = ", ".join(
        f"{name} {share:.3f} ± {half:.3f}{'' if caps else ' (breaks a cap)'}"
        for name, (share, half, caps) in kept.items()
    )
    share, _, caps = kept[OURS]
    return Claim(
        claim=f"`{OURS}`, tuned on short questions, needs no tuning for long documents",
        required=f"at least {KEPT:.0%} of the tokens/s of itself tuned on long documents, at every cap, caps kept",
        measured=f"worst cap: {said}",
        holds=share >= KEPT and caps,
    )


def _everywhere(settings: Settings, rows: list[Row]) -> Claim:
    tables = {}
    for name in settings.methods:
        own = [row for row in rows if row["kind"] == "category" and row["method"] == name and math.isinf(row["cap_w"])]
        tables[name] = min(own, key=lambda row: row["hindsight"])
    said = ", ".join(
        f"{name} {row['hindsight']:.3f} ± {row['hindsight_half']:.3f} ({row['category']})"
        for name, row in tables.items()
    )
    return Claim(
        claim=f"`{OURS}` as tuned on short questions is as fast in every category as that category's best fixed length",
        required=f"at least {KEPT:.0%} of its tokens/s in the worst category, no cap; that length is chosen in hindsight",
        measured=f"worst category: {said}",
        holds=tables[OURS]["hindsight"] >= KEPT,
    )


def _lengths(rows: list[Row]) -> Claim | None:
    """Rank correlation over categories of acceptance and drafted length."""
    own = [row for row in rows if row["kind"] == "category" and row["method"] == OURS and math.isinf(row["cap_w"])]
    if len(own) < 3:
        return None
    ranks = [np.argsort(np.argsort([row[name] for row in own])) for name in ("first_acceptance", "draft_length")]
    correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    ends = [sorted(own, key=lambda row: row["first_acceptance"])[index] for index in (0, -1)]
    said = " to ".join(
        f"{row['draft_length']:.2f} ({row['category']}, acceptance {row['first_acceptance']:.2f}, {row['texts']} texts)"
        for row in ends
    )
    return Claim(
        claim=f"`{OURS}` drafts longer where more is accepted",
        required="rank correlation of acceptance and drafted tokens over categories at least 0.8",
        measured=f"{correlation:.2f} over {len(own)} categories; drafted tokens a round from {said}",
        holds=correlation >= 0.8,
    )


def _prompts(rows: list[Row], prompts: dict[str, Row]) -> Claim:
    ours = {
        row["workload"]: row
        for row in rows
        if row["kind"] == "workload"
        and row["method"] == OURS
        and math.isinf(row["cap_w"])
        and row["tuned_on"] == "short"
    }
    said = "; ".join(
        f"{name}: {prompts[name]['prompt_tokens']:.0f} tokens of prompt cost {prompts[name]['prefill_j']:.2f} J and "
        f"{prompts[name]['prefill_s']:.2f} s a request, {1e3 * row['prompt_per_token_j']:.1f} mJ for each of "
        f"{prompts[name]['tokens_per_request']:.0f} tokens beside the rounds' {1e3 * row['energy_per_token_j']:.1f} mJ"
        for name, row in ours.items()
    )
    share = ours["long"]["prompt_per_token_j"] / ours["long"]["energy_per_token_with_prompt_j"]
    return Claim(
        claim="Reading a long document on the device costs less energy than the rounds that answer it",
        required="under half of the joules a token, device prefill included",
        measured=f"{share:.0%} for long documents ({said}); a prompt token costs a modelled step over the preset's "
        "prefill speed-up; answers are as short as the recording's",
        holds=share < 0.5,
    )


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Speed by category, and joules a token with the prompt's."""
    figure, axes = figures.new_figure(1, 2, panel_width=5.6, panel_height=4.4)
    _draw_categories(axes[0, 0], settings, rows)
    _draw_joules(axes[0, 1], settings, rows)
    return figure


def _draw_categories(ax: "Axes", settings: Settings, rows: list[Row]) -> None:
    free = [row for row in rows if row["kind"] == "category" and math.isinf(row["cap_w"])]
    order = sorted({(row["first_acceptance"], row["category"], row["workload"]) for row in free})
    for name in settings.methods:
        found = {(row["category"], row["workload"]): row["tokens_per_s"] for row in free if row["method"] == name}
        y = [found[category, load] for _, category, load in order]
        color = _LOOK.get(name, figures.BLACK)
        ax.plot(range(len(y)), y, marker="o", color=color)
        figures.label_line(ax, len(y) - 1, y[-1], name, color)
    names = [f"{category}{' (long)' if load == 'long' else ''} {rate:.2f}" for rate, category, load in order]
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_xlabel("category, by acceptance of the first draft token")
    ax.set_ylabel("tokens/s (modelled), no cap")
    ax.set_title("Settings of short questions, everywhere")


def _draw_joules(ax: "Axes", settings: Settings, rows: list[Row]) -> None:
    found = [
        row for row in rows if row["kind"] == "workload" and row["tuned_on"] == "short" and math.isinf(row["cap_w"])
    ]
    names = []
    for place, row in enumerate(reversed(found)):
        color = _LOOK.get(row["method"], figures.BLACK)
        rounds, prompt = 1e3 * row["energy_per_token_j"], 1e3 * row["prompt_per_token_j"]
        ax.barh(place, rounds, color=color)
        ax.barh(place, prompt, left=rounds, color="white", edgecolor=color, hatch="////")
        ax.text(rounds + prompt, place, f"  {row['tokens_per_s']:.1f} tokens/s", va="center", fontsize=8)
        names.append(f"{row['workload']}, {row['method']}")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.margins(x=0.22)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("mJ a token (modelled): rounds (filled), prompts (hatched)")
    ax.set_title("Energy with the device's reading of prompts")


STUDY = Study(
    name="workloads",
    question="Which method needs no new settings when short questions give way to long documents?",
    quick=QUICK,
    full=FULL,
    run=run,
    claims=claims,
    draw=draw,
)
