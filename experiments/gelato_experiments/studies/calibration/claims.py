"""What the study `calibration` claims."""

import math
from typing import Any

from gelato_experiments.studies.calibration.study import Settings
from gelato_experiments.study import Claim, Row

MOST_ERROR = 0.05
"""Expected calibration error that a shipped calibration may have."""
WORTH = 0.02
"""Share of tokens per second that entropy is to be worth; assumed."""
LITTLE = 0.01
"""Share of tokens per second that still counts as little; assumed."""


def claims(settings: Settings, rows: list[Row]) -> list[Claim]:
    """How true it is, recording by recording, and what it is worth."""
    made = []
    for name in settings.recordings:
        own = [row for row in rows if row["recording"] == name]
        made += [_true(own), _worthy(own), _miscalibrated(own, settings), _level(own)]
    return made


def of(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _true(rows: list[Row]) -> Claim:
    first = of(rows, kind="error", tokens="first")
    worst = max(of(rows, kind="error", tokens="later"), key=lambda row: row["ece"])
    said = "; ".join(
        f"exit {row['exit']} {row['fit']} {row['ece']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for row in first
    )
    return Claim(
        claim=f"The shipped calibration is true on the recorded texts, {rows[0]['law']}",
        required=f"expected calibration error at most {MOST_ERROR:g} on first draft tokens, at every exit, both fits",
        measured=f"{said}, over {first[0]['count']} tokens (95 %, bootstrap over texts); behind accepted tokens "
        f"{worst['ece']:.3f}, {worst['observed']:.3f} accepted where {worst['predicted']:.3f} was predicted",
        holds=max(row["ece"] for row in first) <= MOST_ERROR,
    )


def _worthy(rows: list[Row]) -> Claim:
    found = of(rows, kind="worth", calibration="shipped")
    said = ", ".join(f"{row['gain']:+.1%} ± {row['gain_half']:.1%} {cap_name(row['cap_w'])}" for row in found)
    return Claim(
        claim=f"What entropy says is worth tokens, {rows[0]['law']}",
        required=f"`ratio_priced` has {WORTH:.0%} more tokens/s, prompts counted, under every cap with the shipped "
        "calibration than with one that expects the mean of every token",
        measured=f"{said} (modelled); where energy is dear, a round is opened or not before any entropy is known",
        holds=all(row["gain"] >= WORTH for row in found),
    )


def _miscalibrated(rows: list[Row], settings: Settings) -> Claim:
    parts, lost = [], 0.0
    for cap in settings.caps_w:
        found = {row["calibration"]: row for row in of(rows, kind="worth", cap_w=cap)}
        lost = max(lost, found["refitted"]["tokens_per_s"] / found["shipped"]["tokens_per_s"] - 1.0)
        said = ", ".join(
            f"{kind} {row['tokens_per_s']:.2f} ± {row['tokens_per_s_half']:.2f}" for kind, row in found.items()
        )
        parts.append(f"{cap_name(cap)} {said}")
    return Claim(
        claim=f"A calibration fitted to the judged texts themselves gains little, {rows[0]['law']}",
        required=f"at most {LITTLE:.0%} more tokens/s than the shipped one, under every cap",
        measured=f"at most {lost:.1%} more; tokens/s (modelled): {'; '.join(parts)}",
        holds=lost <= LITTLE,
    )


def cap_name(cap_w: float) -> str:
    """A cap in words."""
    return "without a cap" if math.isinf(cap_w) else f"at {cap_w:g} W"


def _level(rows: list[Row]) -> Claim:
    found = {row["level"]: row for row in of(rows, kind="level")}
    said = "; ".join(
        f"{name}: Brier {row['brier']:.4f}, error {row['ece']:.3f}, gap by text {row['text_gap']:.3f}"
        for name, row in found.items()
    )
    return Claim(
        claim=f"Scaling the curve to a row's own level makes it truer, {rows[0]['law']}",
        required="a lower Brier score of first draft tokens with the level that exits read (`relative`) than as it is",
        measured=said,
        holds=found["relative"]["brier"] < found["as it is"]["brier"],
    )
