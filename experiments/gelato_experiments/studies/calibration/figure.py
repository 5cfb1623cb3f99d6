"""The figure of the study `calibration`."""

from typing import TYPE_CHECKING

from gelato_experiments import figures
from gelato_experiments.studies.calibration.claims import cap_name, of
from gelato_experiments.studies.calibration.fits import KINDS
from gelato_experiments.studies.calibration.study import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Reliability and worth, a column for each recording."""
    figure, axes = figures.new_figure(2, len(settings.recordings), panel_height=3.6)
    for column, name in enumerate(settings.recordings):
        own = [row for row in rows if row["recording"] == name]
        _draw_reliability(axes[0, column], own)
        _draw_worth(axes[1, column], own, settings)
    return figure


def _draw_reliability(ax: "Axes", rows: list[Row]) -> None:
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1.0)
    exits = sorted({row["exit"] for row in of(rows, kind="bin")})
    for exit, color in zip(exits, (figures.BLUE, figures.VERMILLION, figures.GREEN), strict=False):
        ends = []
        for fit, look in (("curve", "-"), ("classes", ":")):
            own = sorted(of(rows, kind="bin", exit=exit, fit=fit), key=lambda row: row["predicted"])
            x, y = [row["predicted"] for row in own], [row["observed"] for row in own]
            ax.plot(x, y, look, color=color, marker="o", markersize=3.5)
            ends.append((x[-1], y[-1]))
        x, y = max(ends)
        figures.label_line(ax, x, y, f"exit {exit}", color)
    ax.set_xlabel("predicted acceptance (dotted: by class)")
    ax.set_ylabel("measured acceptance, first draft tokens")
    ax.set_title(f"Reliability, {rows[0]['law']}")


def _draw_worth(ax: "Axes", rows: list[Row], settings: Settings) -> None:
    step = 0.5 / max(len(settings.caps_w), 2)
    for number, cap in enumerate(settings.caps_w):
        color = figures.PALETTE[number]
        own = [row for kind in KINDS for row in of(rows, kind="worth", cap_w=cap, calibration=kind)]
        y = [place + step * (number - (len(settings.caps_w) - 1) / 2) for place in range(len(own))]
        x, half = [100 * row["gain"] for row in own], [100 * row["gain_half"] for row in own]
        ax.errorbar(x, y, xerr=half, color=color, marker="o", linestyle="", label=cap_name(cap))
    ax.legend(loc="lower right")
    ax.axvline(0.0, color="0.6", linewidth=1.0)
    ax.set_yticks(range(len(KINDS)), KINDS)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("tokens/s over `constant`'s, prompts counted (%)")
    ax.set_title("Worth of a calibration to ratio_priced")
