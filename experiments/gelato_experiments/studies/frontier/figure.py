"""The figure of the study `frontier`."""

import math
from typing import TYPE_CHECKING, Any

from gelato_experiments import figures
from gelato_experiments.studies.frontier.settings import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = {
    "ratio_priced": ("ratio + priced exits", figures.VERMILLION),
    "ratio": ("ratio", figures.ORANGE),
    "gelato": ("gelato", figures.BLUE),
    "static": ("static", figures.GREEN),
    "flexspec": ("flexspec", figures.PURPLE),
    "target-only": ("target alone", figures.BLACK),
}


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """A panel for each link; methods that break a cap are not drawn there.

    An oracle knows no prompts and no catching up, so `ratio` is drawn without them too.
    """
    figure, axes = figures.new_figure(1, len(settings.links), sharey=True)
    others = {row["method"] for row in rows if row["kind"] == "method"} - set(_SHOWN)
    for axis, link in zip(axes[0], settings.links, strict=True):
        for name in sorted(others):
            _line(axis, rows, "method", name, link, color="0.75", linewidth=0.8)
        for name, (label, color) in _SHOWN.items():
            _line(axis, rows, "method", name, link, label=label, color=color, marker="o", markersize=3)
        _line(
            axis, rows, "mixture", "static_mix", link, label="two lengths, mixed", color=figures.GREEN, linestyle="--"
        )
        _line(axis, rows, "oracle", "round-level", link, label="oracle (i), no prompts", color="0.3", linestyle="--")
        _line(axis, rows, "free", "ratio", link, label="ratio, no prompts", color=figures.ORANGE, linestyle=":")
        axis.set_xscale("log")
        caps = [cap for cap in settings.caps_w if math.isfinite(cap)]
        axis.set_xticks(caps, [f"{cap:g}" for cap in caps])
        axis.minorticks_off()
        axis.set_title(link)
        axis.set_xlabel("cap on mean device power, W")
    axes[0][0].set_ylabel("modelled tokens/s, prompts counted")
    figure.suptitle("Grey: the other methods, where they keep the cap")
    return figure


def _line(axis: Any, rows: list[Row], kind: str, method: str, link: str, label: str = "", **style: Any) -> None:
    points = [
        (row["cap_w"], row["tokens_per_s"])
        for row in rows
        if (row["kind"], row["method"], row["link"]) == (kind, method, link) and row.get("keeps_cap") is not False
    ]
    if points:
        x, y = zip(*sorted(points), strict=True)
        axis.plot(x, y, **style)
        if label:
            figures.label_line(axis, x[-1], y[-1], label, style["color"])
