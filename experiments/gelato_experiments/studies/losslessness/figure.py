"""The figure of the study `losslessness`."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from gelato_experiments.figures import BLUE, GREY, VERMILLION, new_figure
from gelato_experiments.studies.losslessness.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Distance to the target's distribution beside what sampling alone gives, a line a check."""
    figure, axes = new_figure(panel_width=7.5, panel_height=0.6 + 0.16 * len(rows))
    axis = axes[0, 0]
    places = np.arange(len(rows))[::-1]
    bent = np.array([row["kind"] == "mutant" and row["mutant"] != "none" for row in rows])
    distance = np.array([row["tv"] for row in rows])
    axis.scatter([row["tv_floor"] for row in rows], places, marker="|", s=60, color=GREY, label="sampling alone")
    axis.scatter(distance[~bent], places[~bent], s=14, color=BLUE, label="this decoder")
    axis.scatter(distance[bent], places[bent], s=14, color=VERMILLION, label="with a mistake")
    axis.set_yticks(places, [_label(row) for row in rows], fontsize=7)
    axis.set_ylim(-1, len(rows))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("total variation distance to the target's law of 3 tokens (no unit)")
    axis.legend(loc="upper right")
    return figure


def _label(row: Row) -> str:
    if row["kind"] == "mutant":
        return "sound, as the mistakes" if row["mutant"] == "none" else row["mutant"]
    return " ".join((row["payload"], row["controller"], row["length_exit"], row["depth_exit"]))
