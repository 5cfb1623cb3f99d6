"""The figure of the study `fluctuation`."""

from typing import TYPE_CHECKING

import numpy as np

from gelato_experiments import figures
from gelato_experiments.studies.fluctuation.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = dict(zip(("static", "hf_schedule", "gelato", "ratio", "ratio_priced"), "sv^oD", strict=True))


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Worlds from top to bottom; rate against the re-tuned fixed length, and power, of every method."""
    payloads = list(dict.fromkeys(row["payload"] for row in rows))
    figure, axes = figures.new_figure(len(payloads), 2, panel_height=5.2, sharey="row")
    for payload, (left, right) in zip(payloads, axes, strict=True):
        part = [row for row in rows if row["payload"] == payload]
        worlds = list(dict.fromkeys(row["world"] for row in part))
        names = list(dict.fromkeys(row["method"] for row in part))
        for number, (name, color) in enumerate(zip(names, figures.PALETTE, strict=False)):
            own = {row["world"]: row for row in part if row["method"] == name}
            place = np.arange(len(worlds)) + 0.13 * (number - (len(names) - 1) / 2)
            for ax, column, scale in ((left, "of_retuned", 100.0), (right, "power_w", 1.0)):
                values = scale * np.array([own[world][column] for world in worlds])
                halves = scale * np.array([own[world][f"{column}_half"] for world in worlds])
                mark = _MARKS.get(name, "o")
                ax.errorbar(values, place, xerr=halves, fmt=mark, color=color, label=name, markersize=4, linewidth=1)
        left.axvline(100.0, color=figures.GREY, linewidth=1.0)
        right.axvline(settings.cap_w, color=figures.GREY, linewidth=1.0)
        left.set_yticks(range(len(worlds)), worlds)
        left.invert_yaxis()
        left.set(
            xlabel="tokens/s, prompts counted, % of a fixed length\ntuned for that world",
            title=f"Rate, payload {payload}",
        )
        right.set(xlabel=f"mean power, W (line: the cap, {settings.cap_w:g} W)", title="Power")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
