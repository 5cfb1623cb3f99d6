"""What the study `workloads` claims."""

import math

import numpy as np

from gelato_experiments.studies.workloads.study import Settings
from gelato_experiments.study import Claim, Row

KEPT = 0.98
"""Share of its own retuned tokens per second that a method which needs no tuning keeps; assumed."""
OURS = "ratio_priced"


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
        required=f"at least {KEPT:.0%} of the tokens/s, prompts counted, of itself tuned on long documents, at every "
        "cap, caps kept",
        measured=f"worst cap: {said}",
        holds=share >= KEPT and caps,
    )


def _everywhere(settings: Settings, rows: list[Row]) -> Claim:
    tables = {}
    for name in settings.methods:
        own = [row for row in rows if row["kind"] == "category" and row["method"] == name and math.isinf(row["cap_w"])]
        tables[name] = min(own, key=lambda row: row["hindsight"])
    said = ", ".join(
        f"{name} {row['hindsight']:.3f} ± {row['hindsight_half']:.3f} ({row['category']}, {row['texts']} texts)"
        for name, row in tables.items()
    )
    return Claim(
        claim=f"`{OURS}` as tuned on short questions is as fast in every category as that category's best fixed length",
        required=f"at least {KEPT:.0%} of its tokens/s, prompts counted, in the worst category, no cap; the length is "
        "of hindsight",
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
        f"{prompts[name]['tokens_per_request']:.0f} tokens, of {1e3 * row['energy_per_token_j']:.1f} mJ in all"
        for name, row in ours.items()
    )
    share = ours["long"]["prompt_per_token_j"] / ours["long"]["energy_per_token_j"]
    return Claim(
        claim="Reading a long document on the device costs less energy than the rounds that answer it",
        required="under half of the joules a token, device prefill included",
        measured=f"{share:.0%} for long documents ({said}); a prompt token costs a modelled step over the preset's "
        "prefill speed-up; answers are as short as the recording's",
        holds=share < 0.5,
    )
