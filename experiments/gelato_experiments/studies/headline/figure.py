"""The figure of the study `headline`: gains beside the paper's, and the way from an untuned baseline to ours."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gelato_experiments import figures
from gelato_experiments.studies.headline.claims import METHODS, PUBLISHED
from gelato_experiments.studies.headline.study import Settings
from gelato_experiments.studies.shared.gains import find
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SERIES = (
    ("own", "dsd", "own payloads, over DSD at its best length", figures.BLUE, "o"),
    ("equal", "static fixed", "equal payload, over a fixed length", figures.GREEN, "s"),
    ("equal", "static", "equal payload, over the best length", figures.VERMILLION, "D"),
)
_COLUMNS = (
    ("rate_gain_pct", "gain in tokens per second, prompts counted, %"),
    ("energy_gain_pct", "change in joules a token, prompts counted, %"),
)
_OFFSET = 0.22  # between the series of one method


def draw(settings: Settings, rows: Sequence[Row]) -> "Figure":
    """A row of panels for each condition: tokens per second, joules, and the stages between."""
    links = settings.links
    figure, axes = figures.new_figure(len(links), 3, panel_width=4.8, panel_height=3.1)
    for number, link in enumerate(links):
        for ax, (column, label) in zip(axes[number], _COLUMNS, strict=False):
            _gains(ax, rows, link, column)
            reported = next(f.percent for f in PUBLISHED if (f.condition, f.column) == (number, column))
            _reported(ax, reported)
            ax.set_title(f"{link}, sampled text, no cap")
            ax.set_xlabel(label)
        _stages(axes[number, 2], settings, rows, link)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(_SERIES))
    return figure


def _gains(ax: "Axes", rows: Sequence[Row], link: str, column: str) -> None:
    """Methods from top to bottom, a mark for each baseline."""
    for place, (payload, base, label, color, marker) in enumerate(_SERIES):
        for line, method in enumerate(METHODS):
            row = find(
                rows,
                part="gain",
                text="sampled",
                link=link,
                accounting="all",
                cap_w=math.inf,
                payload=payload,
                method=method,
                base=base,
            )
            if row[column] is None:
                continue
            ax.errorbar(
                row[column],
                line + (place - 1) * _OFFSET,
                xerr=row[f"{column}_half"],
                fmt=marker,
                color=color,
                label=label if line == 0 else None,
            )
    ax.axvline(0.0, color="0.4", linewidth=0.9)
    ax.set_yticks(range(len(METHODS)), METHODS)
    ax.set_ylim(len(METHODS) - 0.4, -0.6)


def _reported(ax: "Axes", percent: float) -> None:
    """The paper's figure as a line with its name."""
    ax.axvline(percent, color=figures.GREY, linestyle="--", linewidth=1.2)
    ax.annotate(
        f"paper {percent:+g} %",
        (percent, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        rotation=90,
        fontsize=8,
        color="0.35",
        va="bottom",
    )


def _stages(ax: "Axes", settings: Settings, rows: Sequence[Row], link: str) -> None:
    """From a static length that nobody tuned, with all of q, to ours: what each change is worth."""
    world = {"text": "sampled", "link": link, "accounting": "all", "cap_w": math.inf}
    fixed = settings.fixed_length
    stages = [
        (f"DSD, {fixed} drafts, all of q", find(rows, part="stage", **world, sends="full", rules="fixed")),
        ("+ candidates for q", find(rows, part="stage", **world, sends="candidates", rules="fixed")),
        ("+ the best length", find(rows, part="stage", **world, sends="candidates", rules="static")),
        ("+ controller", find(rows, part="method", **world, payload="equal", method="ratio")),
        ("+ priced exits", find(rows, part="method", **world, payload="equal", method="ratio_priced")),
    ]
    rates = [row["tokens_per_s"] for _, row in stages]
    ax.plot(rates, range(len(stages)), color="0.75", zorder=1)
    for line, (_, row) in enumerate(stages):
        ax.errorbar(rates[line], line, xerr=row["tokens_per_s_half"], fmt="o", color=figures.BLACK, zorder=2)
        factor = "" if line == 0 else f" (×{rates[line] / rates[line - 1]:.2f})"
        text = f"{rates[line]:.2f}, {row['energy_per_token_j'] * 1e3:.0f} mJ{factor}"
        ax.annotate(text, (rates[line], line), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8)
    alone = find(rows, part="method", **world, payload="equal", method="target-only")
    ax.axvline(alone["tokens_per_s"], color=figures.PURPLE, linestyle=":", linewidth=1.4)
    ax.annotate(
        f"target alone, {alone['energy_per_token_j'] * 1e3:.0f} mJ",
        (alone["tokens_per_s"], 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=8,
        color="0.35",
    )
    ax.set_xscale("log")
    ax.set_xlim(min(rates) / 1.5, max(rates) * 12)
    ax.set_yticks(range(len(stages)), [name for name, _ in stages])
    ax.set_ylim(len(stages) - 0.4, -0.6)
    ax.set_xlabel("tokens/s (log) and mJ a token, prompts counted")
    ax.set_title(f"{link}, one change at a time")
