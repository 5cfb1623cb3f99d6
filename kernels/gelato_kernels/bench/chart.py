"""The report as a picture: how many times as fast as the textbook's steps, a bar per implementation."""

import io
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from gelato_kernels.bench.measure import TEXTBOOK, Measurements, Row

# Okabe and Ito's palette, told apart with any kind of colour vision; each bar is named as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_BAR_INCHES = 0.22
_INK, _PALE = "#222222", "#999999"


def available() -> bool:
    """Whether matplotlib is there to draw with."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def bars(report: Measurements) -> list[Row]:
    """Rows to draw: where the reference is what an op is compared with, its own ratio says nothing."""
    return [row for row in report.rows if row.ratio not in (None, 1.0) and row.implementation != TEXTBOOK]


def draw(report: Measurements) -> bytes:
    """PNG of a report's `bars`, of which there is one at least.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = bars(report)
    panels = [(op, list(of_op)) for op, of_op in groupby(rows, key=lambda row: row.op)]
    heights = [len(of_op) + 2 for _, of_op in panels]
    figure = Figure(figsize=(9, _BAR_INCHES * sum(heights) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"How many times as fast as the textbook's steps\n{report.device} ({report.platform}), jax {report.jax}",
        x=0.01,
        ha="left",
        fontsize=11,
        color=_INK,
    )
    colours = _colours(row.implementation for row in rows)
    limits = _limits([row.ratio for row in rows if row.ratio is not None])
    axes: Any = figure.subplots(len(panels), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
    for axis, (op, of_op) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, op, of_op, colours)
        axis.set_xlim(*limits)
    axes[-1, 0].tick_params(axis="x", length=3, labelsize=8, colors=_PALE, labelbottom=True)
    axes[-1, 0].spines["bottom"].set_visible(True)
    axes[-1, 0].set_xlabel("time of the textbook's steps / time of the op", fontsize=8, color=_INK)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _colours(names: Iterable[str]) -> dict[str, str]:
    distinct = dict.fromkeys(names)
    return {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(distinct)}


def _limits(ratios: list[float]) -> tuple[float, float]:
    """Ends of the axis: powers of ten would waste half of it; room to the right for the labels."""
    low, high = min([0.9, *ratios]), max([1.5, *ratios])
    return low / 1.1, high * (high / low) ** 0.22


def _panel(axis: Any, op: str, rows: list[Row], colours: dict[str, str]) -> None:
    """One op's bars, from 1 to the ratio, first row on top."""
    from matplotlib.ticker import LogLocator, NullLocator

    places = range(len(rows))
    ratios = [row.ratio or 1.0 for row in rows]
    axis.barh(
        places,
        [ratio - 1 for ratio in ratios],
        left=1,
        height=0.75,
        color=[colours[row.implementation] for row in rows],
    )
    for place, row, ratio in zip(places, rows, ratios, strict=True):
        axis.annotate(
            f"{_short(ratio)} x  {row.implementation}",
            (max(ratio, 1.0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_INK,
        )
    axis.set_title(op, loc="left", fontsize=9.5, fontweight="bold", color=_INK)
    axis.set_xscale("log")
    axis.set_ylim(len(rows) - 0.4, -0.6)
    # A case is named once, at the first of its bars.
    names = [row.case if place == 0 or row.case != rows[place - 1].case else "" for place, row in enumerate(rows)]
    axis.set_yticks(places, names, fontsize=8, color=_INK)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.axvline(1, color=_PALE, linewidth=1)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.spines["bottom"].set_color(_PALE)


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.995 else f"{ratio:.2f}"
