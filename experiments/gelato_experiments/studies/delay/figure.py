"""The figure of the study `delay`."""

import math
from typing import TYPE_CHECKING

from gelato_experiments import figures
from gelato_experiments.studies.delay.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Length against delay, a panel for each edge."""
    figure, axes = figures.new_figure(1, len(settings.edges), sharey=True)
    for ax, edge in zip(axes[0], settings.edges, strict=True):
        lengths = [row for row in rows if row["kind"] == "length" and row["edge"] == edge]
        free = [row for row in lengths if math.isinf(row["cap_w"])]
        dear = [row for row in lengths if not math.isinf(row["cap_w"])]
        cap = f"at {settings.cap_w:g} W"
        for chosen, name, text, color, look in (
            (free, "static", "best fixed", figures.BLUE, {"marker": "o", "linestyle": ""}),
            (free, "iid", "equal acceptance", figures.GREY, {"linestyle": "--"}),
            (free, "ratio", "ratio", figures.VERMILLION, {}),
            (dear, "static", f"best fixed {cap}", figures.SKY, {"marker": "s", "linestyle": ""}),
            (dear, "ratio", f"ratio {cap}", figures.ORANGE, {}),
        ):
            x, y = [1e3 * row["rtt_s"] for row in chosen], [row[name] for row in chosen]
            ax.plot(x, y, color=color, **look)
            figures.label_line(ax, x[-1], y[-1], text, color)
        ax.set_xscale("log")
        ax.set_title(f"{edge}, {settings.device} (modelled)")
        ax.set_xlabel("two-way delay (ms)")
    axes[0, 0].set_ylabel("draft length (tokens)")
    return figure
