"""The figure of the study `where`: a map for each recording and allowance of watts."""

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from gelato_experiments import figures
from gelato_experiments.studies.where.claims import DEFAULT
from gelato_experiments.studies.where.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PCT = 15.0
"""Per cent at which colours end."""


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Gain of the default over the best mixture of lengths, at the first waiting power; a cell says the rate too.

    Where the default breaks a limit, the cell says whether others keep it.
    """
    figure, axes = figures.new_figure(len(settings.recordings), len(settings.spare_w), panel_height=2.6)
    waiting = settings.waiting_w[0]
    colours = ScalarMappable(Normalize(-_MOST_PCT, _MOST_PCT), "RdBu")
    shape = (len(settings.rtts_s), len(settings.pass_budgets))
    for panels, recording in zip(axes, settings.recordings, strict=True):
        for ax, spare in zip(panels, settings.spare_w, strict=True):
            gains, texts = np.full(shape, np.nan), np.full(shape, "none keeps it", object)
            for row in rows:
                if (row["recording"], row["waiting_w"], row["spare_w"]) != (recording, waiting, spare):
                    continue
                at = (settings.rtts_s.index(row["rtt_s"]), settings.pass_budgets.index(row["pass_budget"]))
                if row["method"] == DEFAULT and row["keeps"]:
                    gains[at] = row["gain_pct"]
                    texts[at] = f"{row['gain_pct']:+.1f} %\n{row['tokens_per_s']:.0f} tokens/s"
                elif row["method"] != DEFAULT and row["keeps"] and math.isnan(gains[at]):
                    texts[at] = "others keep it"
            ax.imshow(gains, cmap=colours.cmap, norm=colours.norm, aspect="auto", origin="lower")
            for (y, x), text in np.ndenumerate(texts):
                ax.text(x, y, text, ha="center", va="center", fontsize=8)
            ax.set_xticks(range(shape[1]), [f"{budget:g}" for budget in settings.pass_budgets])
            ax.set_yticks(range(shape[0]), [f"{1e3 * rtt:g}" for rtt in settings.rtts_s])
            ax.grid(visible=False)
            cap = "watts free" if math.isinf(spare) else f"{spare:g} W over waiting"
            ax.set_title(f"{recording}, {cap} (modelled)")
    for ax in axes[-1]:
        ax.set_xlabel("passes of the target allowed a token (1: a stream)")
    for ax in axes[:, 0]:
        ax.set_ylabel("two-way delay (ms)")
    label = f"{DEFAULT} over the best mixture of lengths (% tokens/s)"
    figure.colorbar(colours, ax=axes.ravel().tolist(), label=label)
    return figure
