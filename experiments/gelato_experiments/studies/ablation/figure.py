"""The figure of the study `ablation`: every payload by loops, and effects beside each other."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gelato_experiments import figures
from gelato_experiments.studies.ablation.claims import WAYS
from gelato_experiments.studies.ablation.study import Settings
from gelato_experiments.studies.shared.gains import find
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = {
    "none": (figures.BLACK, "o"),
    "outer only": (figures.BLUE, "s"),
    "inner only": (figures.ORANGE, "^"),
    "both": (figures.VERMILLION, "D"),
}
_LABELS = {
    "none": "none: best static length",
    "outer only": "outer only: ratio",
    "inner only": "inner only: bucket",
    "both": "both: ratio with priced exits",
}
_STEP = 0.17  # between the marks of one line


def draw(settings: Settings, rows: Sequence[Row]) -> "Figure":
    """For the first text, a row of panels by link: payloads without a cap and under it, then effects."""
    figure, axes = figures.new_figure(len(settings.links), 3, panel_width=4.8, panel_height=3.3)
    for number, link in enumerate(settings.links):
        world = {"text": settings.texts[0], "link": link}
        for ax, cap in zip(axes[number], (math.inf, settings.cap_w), strict=False):
            _payloads(ax, settings, rows, {**world, "cap_w": cap})
            ax.set_title(f"{link}, {'no cap' if math.isinf(cap) else f'at most {cap:g} W'}")
        _effects(axes[number, 2], settings, rows, world)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(_MARKS))
    return figure


def _payloads(ax: "Axes", settings: Settings, rows: Sequence[Row], world: dict[str, Any]) -> None:
    """Tokens per second by payload, a mark for each of none, outer, inner, both."""
    for place, (way, (color, marker)) in enumerate(_MARKS.items()):
        outer, exit = WAYS[way]
        for line, payload in enumerate(settings.payloads):
            row = find(rows, part="cell", **world, payload=payload, outer=outer, exit=exit, depth="last")
            ax.errorbar(
                row["tokens_per_s"],
                line + (place - 1.5) * _STEP,
                xerr=row["tokens_per_s_half"],
                fmt=marker,
                color=color,
                label=_LABELS[way] if line == 0 else None,
            )
    ax.set_yticks(range(len(settings.payloads)), settings.payloads)
    ax.set_ylim(len(settings.payloads) - 0.4, -0.6)
    ax.set_xlabel("tokens per second, prompts counted")


def _effects(ax: "Axes", settings: Settings, rows: Sequence[Row], world: dict[str, Any]) -> None:
    """Gains in tokens per second of one thing changed, without a cap and under it."""
    last = {"payload": settings.payloads[-1], "depth": "last"}
    lines = {
        "payload: full to candidates": {"part": "over full", **last, "outer": "static", "exit": "none"},
        "outer only: ratio": {"part": "over none", **last, "outer": "ratio", "exit": "none"},
        "outer only: gelato": {"part": "over none", **last, "outer": "gelato", "exit": "none"},
        "inner only: bucket": {"part": "over none", **last, "outer": "static", "exit": "bucket"},
        "inner only: svip": {"part": "over none", **last, "outer": "static", "exit": "svip"},
        "both: gelato, bucket": {"part": "over none", **last, "outer": "gelato", "exit": "bucket"},
        "both: ratio, priced": {"part": "over none", **last, "outer": "ratio", "exit": "priced"},
        "depth: first exit": {"part": "over last", "depth": "first", "outer": "ratio", "exit": "priced"},
        "depth: by entropy": {"part": "over last", "depth": "entropy", "outer": "ratio", "exit": "priced"},
    }
    caps = ((math.inf, "no cap", figures.BLACK, "o"), (settings.cap_w, f"{settings.cap_w:g} W", figures.SKY, "s"))
    lines = {name: wanted for name, wanted in lines.items() if any(row["part"] == wanted["part"] for row in rows)}
    for place, (cap, label, color, marker) in enumerate(caps):
        for line, wanted in enumerate(lines.values()):
            row = find(rows, **wanted, **world, cap_w=cap)
            ax.errorbar(
                row["rate_gain_pct"],
                line + (place - 0.5) * 2 * _STEP,
                xerr=row["rate_gain_pct_half"],
                fmt=marker,
                color=color,
                label=label if line == 0 else None,
            )
    ax.axvline(0.0, color="0.4", linewidth=0.9)
    ax.set_yticks(range(len(lines)), list(lines))
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xlabel("gain in tokens per second, prompts counted, %")
    ax.set_title(f"{world['link']}, one change at a time")
    ax.legend(loc="best")
