"""The figure of the study `penalty_sweep`."""

from typing import TYPE_CHECKING

import numpy as np

from gelato_experiments import figures
from gelato_experiments.studies.penalty_sweep.claims import of
from gelato_experiments.studies.penalty_sweep.study import RULE, Settings
from gelato_experiments.study import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = {"no queue": "s", "E without Pbar T": "^", "stale theta": "D"}


def draw(settings: Settings, rows: list[Row]) -> "Figure":
    """Gap with its bound, and queue, against V lambda; mutants as marks."""
    figure, axes = figures.new_figure(1, 2)
    left, right = axes[0]
    for cap, color in zip(settings.caps_w, figures.PALETTE, strict=False):
        part = of(rows, RULE, cap)
        price, gap, half, bound, ratio = (
            np.array([row[name] for row in part])
            for name in ("price_j", "gap_tokens_per_s", "gap_half", "bound_tokens_per_s", "queue_ratio")
        )
        left.plot(price, np.maximum(gap, 1e-3), "o-", color=color)
        left.fill_between(price, np.maximum(gap - half, 1e-3), gap + half, color=color, alpha=0.15, linewidth=0)
        left.plot(price, bound, "--", color=color, linewidth=1.2)
        figures.label_line(left, price[-1], max(gap[-1], 1e-3), f"ratio, {cap:g} W", color)
        figures.label_line(left, price[-1], bound[-1], f"bound, {cap:g} W", color)
        right.plot(price, ratio, "o-", color=color)
        figures.label_line(right, price[-1], ratio[-1], f"ratio, {cap:g} W", color)
    _draw_mutants(left, right, rows, settings)
    left.set(
        xscale="log", yscale="log", ylabel="adjusted gap to the LP, tokens/s", title="Gap, and the theorem's bound"
    )
    right.axhline(1.0, color=figures.GREY, linewidth=1.0)
    right.set(xscale="log", yscale="log", ylabel="mean queue / (V λ)", title="Queue")
    for ax in (left, right):
        ax.set_xlabel("V λ, J (λ: the LP's price of power)")
    return figure


def _draw_mutants(left: "Axes", right: "Axes", rows: list[Row], settings: Settings) -> None:
    cap = settings.caps_w[-1]
    for (name, mark), color in zip(_MARKS.items(), figures.PALETTE[len(settings.caps_w) :], strict=False):
        part = of(rows, name, cap)
        price = [row["price_j"] for row in part]
        for ax, column in ((left, "gap_tokens_per_s"), (right, "queue_ratio")):
            values = np.maximum([row[column] for row in part], 1e-3)
            if column == "queue_ratio" and name == "no queue":
                continue  # zero
            ax.plot(price, values, mark, color=color)
            figures.label_line(ax, price[-1], values[-1], f"{name}, {cap:g} W", color)
