"""What the study `depth` claims."""

import json

import numpy as np

from gelato_experiments.studies.depth.study import BY_TOKEN, Settings
from gelato_experiments.study import Claim, Row

NEEDED = 0.05
"""Share of the joules that choosing depth by token is to save."""


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """What depth by token saves, rule by rule, and which depth alone is best."""
    made = [_saving(settings, rows, length_rule, depth) for length_rule, depths in BY_TOKEN.items() for depth in depths]
    return [*made, _shallow(rows)]


def _saving(settings: Settings, rows: list[Row], length_rule: str, depth: str) -> Claim:
    own = [row for row in rows if row["length_rule"] == length_rule]
    saved = [row for row in own if row["kind"] == "saving" and row["depth"] == depth]
    what = {"entropy": "Choosing depth by token, by entropy,", "priced": "Choosing depth by token, priced,"}[depth]
    claim = f"{what} saves at least {NEEDED:.0%} of joules at equal tokens/s under `{length_rule}`"
    required = f"at least {NEEDED:.0%} on the mean over speeds, against the best single depth or mixture of depths; "
    "prompts counted"
    if not saved:
        return Claim(claim=claim, required=required, measured="the curves share no speed", holds=None)
    mean = float(np.mean([row["saved"] for row in saved]))
    best, worst = max(saved, key=lambda row: row["saved"]), min(saved, key=lambda row: row["saved"])
    points = [row for row in own if row["kind"] == "point" and row["depth"] == depth and row["chosen"]]
    fastest = max(points, key=lambda row: row["tokens_per_s"])
    text = lambda row: (  # noqa: E731
        f"{row['saved']:.1%} ± {row['saved_half']:.1%} at {row['tokens_per_s']:.2f} tokens/s"
    )
    shares = " / ".join(f"{share:.0%}" for share in json.loads(fastest["exits"]))
    return Claim(
        claim=claim,
        required=required,
        measured=f"{mean:.1%}; from {text(worst)} to {text(best)}; tokens by exit at the fastest point: {shares}; "
        "modelled, with a replay that is approximate for depth by token",
        holds=mean >= NEEDED,
    )


def _shallow(rows: list[Row]) -> Claim:
    """The best speed of the shallowest exit against the deepest."""
    fixed = [
        row for row in rows if row["kind"] == "point" and row["depth"] == "fixed" and row["length_rule"] == "static"
    ]
    deepest = max(row["value"] for row in fixed)
    best = {
        exit: max((row for row in fixed if row["value"] == exit), key=lambda row: row["tokens_per_s"])
        for exit in (0.0, deepest)
    }
    first, last = best[0.0], best[deepest]
    text = lambda row: (  # noqa: E731
        f"{row['tokens_per_s']:.2f} ± {row['tokens_per_s_half']:.2f} tokens/s, "
        f"{1e3 * row['energy_per_token_j']:.1f} mJ a token ({row['level']:g} tokens drafted)"
    )
    return Claim(
        claim="The first exit for all tokens is faster and cheaper than full depth, at the best fixed length of each",
        required="more tokens/s and fewer joules a token, prompts counted in both",
        measured=f"first exit {text(first)}; last exit {text(last)}",
        holds=first["tokens_per_s"] > last["tokens_per_s"] and first["energy_per_token_j"] < last["energy_per_token_j"],
    )
