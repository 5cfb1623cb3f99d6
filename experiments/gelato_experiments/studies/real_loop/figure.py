"""The figure of the study `real_loop`."""

from typing import TYPE_CHECKING

import numpy as np

from gelato_experiments.figures import BLUE, GREY, ORANGE, VERMILLION, new_figure
from gelato_experiments.studies.real_loop.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Both figures of every method, real and simulated, and how far they are apart."""
    figure, axes = new_figure(1, 3, panel_width=3.9, panel_height=0.9 + 0.28 * len(rows), sharey=True)
    places = np.arange(len(rows))[::-1]
    for axis, name, unit, scale in (
        (axes[0, 0], "tokens_per_s", "modelled tokens per second, prompts counted", 1.0),
        (axes[0, 1], "energy", "modelled mJ a token, prompts counted", 1e3),
    ):
        real, simulated = ([row[f"{kind}_{name}"] * scale for row in rows] for kind in ("real", "simulated"))
        axis.scatter(real, places, s=46, facecolors="none", edgecolors=BLUE, label="real loop")
        axis.scatter(simulated, places, s=14, marker="x", color=VERMILLION, label="simulator")
        axis.set_xlabel(unit)
    axes[0, 0].set_yticks(places, [f"{row['method']}, {row['part']}" for row in rows])
    axes[0, 0].legend(loc="best")
    for shift, name, color in ((0.1, "tokens_per_s", BLUE), (-0.1, "energy", ORANGE)):
        off, half = ([row[f"{name}_{kind}"] * 100 for row in rows] for kind in ("off", "half"))
        label = "tokens/s" if name == "tokens_per_s" else "joules a token"
        axes[0, 2].errorbar(off, places + shift, xerr=half, fmt="o", markersize=4, color=color, label=label)
    axes[0, 2].axvline(0.0, color=GREY, linewidth=0.8)
    axes[0, 2].set_xlabel("simulator off real loop, % (95 % interval)")
    axes[0, 2].legend(loc="best")
    return figure
