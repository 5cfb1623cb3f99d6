"""The figure of `queue_stability`."""

from typing import TYPE_CHECKING

import numpy as np

from gelato_experiments import figures
from gelato_experiments.studies.queue_stability.settings import Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Four panels: queue over rounds, its bound, power by delay, share of the optimum by cap."""
    figure, axes = figures.new_figure(2, 2)
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("path", "bound", "delay", "share")}
    _draw_paths(axes[0, 0], by_kind["path"])
    _draw_bound(axes[0, 1], by_kind["bound"])
    _draw_delay(axes[1, 0], by_kind["delay"], settings.cap_w)
    _draw_shares(axes[1, 1], by_kind["share"])
    return figure


_COLORS = {
    "ratio": figures.BLUE,
    "ratio, watts": figures.BLUE,
    "gelato": figures.VERMILLION,
    "gelato, watts": figures.VERMILLION,
    "gelato, joules a round": figures.GREEN,
    "no queue": figures.PURPLE,
    "E without budget": figures.ORANGE,
    "queue not heeded": figures.SKY,
}


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["rule"] for row in rows))


def _draw_paths(ax: "Axes", rows: list[Row]) -> None:
    for name in _names(rows):
        color = _COLORS[name]
        part = [row for row in rows if row["rule"] == name]
        lengths = sorted({row["rounds"] for row in part})
        worst = [max(row["queue_per_round_j"] for row in part if row["rounds"] == rounds) for rounds in lengths]
        ax.plot(lengths, worst, "o-", color=color)
        figures.label_line(ax, lengths[-1], worst[-1], name, color)
    ax.set(xscale="log", yscale="log", xlabel="rounds K", ylabel="largest Q_K / K, J", title="Mean rate stability (T1)")


def _draw_bound(ax: "Axes", rows: list[Row]) -> None:
    whole = [row for row in rows if row["rule"] == "gelato"]
    weights = [row["penalty_weight"] for row in whole]
    for column, style, name in (("bound_j", "--", "bound"), ("sharp_bound_j", ":", "sharper bound")):
        values = [row[column] for row in whole]
        ax.plot(weights, values, style, color=figures.GREY)
        figures.label_line(ax, weights[-1], values[-1], name, figures.GREY)
    for name, mark in zip(_names(rows), ("o-", "s", "^", "D"), strict=False):
        # `gelato` is the form with joules a round here.
        color = figures.GREEN if name == "gelato" else _COLORS[name]
        values = [row["queue_max_j"] for row in rows if row["rule"] == name]
        if max(values) > 0:  # without a queue there is nothing to draw
            ax.plot(weights, values, mark, color=color)
            figures.label_line(ax, weights[-1], values[-1], name, color)
    ax.set(xscale="log", yscale="log", xlabel="V, J² s/token", ylabel="largest queue, J", title="Queue and bound (T2)")


def _draw_delay(ax: "Axes", rows: list[Row], cap_w: float) -> None:
    delays = sorted({row["rtt_ms"] for row in rows})
    for name in _names(rows):
        color = _COLORS[name]
        part = [row for row in rows if row["rule"] == name]
        power, half = (np.array([row[column] for row in part]) for column in ("power_w", "power_half"))
        ax.errorbar(delays, power, half, fmt="o-", color=color, capsize=2)
        figures.label_line(ax, delays[-1], power[-1], name, color)
    ax.axhline(cap_w, color=figures.GREY, linewidth=1.0)
    figures.label_line(ax, delays[-1], cap_w, f"cap, {cap_w:g} W", figures.GREY)
    ax.set(xlabel="round-trip delay, ms", ylabel="mean power, W", title="A budget of joules or of watts")
    ax.set_ylim(bottom=0)


def _draw_shares(ax: "Axes", rows: list[Row]) -> None:
    for name in _names(rows):
        color = _COLORS[name]
        part = [row for row in rows if row["rule"] == name]
        caps = sorted({row["cap_w"] for row in part})
        best = [max((r for r in part if r["cap_w"] == cap), key=lambda row: row["optimum_share"]) for cap in caps]
        share, half = (100 * np.array([row[column] for row in best]) for column in ("optimum_share", "share_half"))
        ax.errorbar(caps, share, half, fmt="o-", color=color, capsize=2)
        figures.label_line(ax, caps[-1], share[-1], name, color)
    ax.axhline(100, color=figures.GREY, linewidth=1.0)
    ax.set(
        xlabel="cap on mean power, W", ylabel="tokens/s, % of the LP's optimum", title="Ratio of each round, or of sums"
    )
