"""The figure of the study `workloads`."""

import math
from typing import TYPE_CHECKING

from gelato_experiments import figures
from gelato_experiments.studies.workloads.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOK = {
    "target-only": figures.GREY,
    "static": figures.BLUE,
    "gelato": figures.GREEN,
    "ratio": figures.ORANGE,
    "ratio_priced": figures.VERMILLION,
}


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
    ax.set_ylabel("tokens/s with prompts, no cap")
    ax.set_title("Settings of short questions, everywhere")


def _draw_joules(ax: "Axes", settings: Settings, rows: list[Row]) -> None:
    found = [
        row for row in rows if row["kind"] == "workload" and row["tuned_on"] == "short" and math.isinf(row["cap_w"])
    ]
    names = []
    for place, row in enumerate(reversed(found)):
        color = _LOOK.get(row["method"], figures.BLACK)
        whole, prompt = 1e3 * row["energy_per_token_j"], 1e3 * row["prompt_per_token_j"]
        ax.barh(place, whole - prompt, color=color)
        ax.barh(place, prompt, left=whole - prompt, color="white", edgecolor=color, hatch="////")
        ax.text(whole, place, f"  {row['tokens_per_s']:.1f} tokens/s", va="center", fontsize=8)
        names.append(f"{row['workload']}, {row['method']}")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.margins(x=0.22)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("mJ a token: rounds (filled), prompts (hatched)")
    ax.set_title("Energy and speed (modelled), prompts counted")
