"""How the figures of all studies look, and the files that they become.

A study draws with `new_figure` and `label_line`; the runner holds `style()` around that and calls `save`.
"""

import contextlib
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import IdentityTransform

from gelato_jax.files import atomic_write

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#7F7F7F"

PALETTE: tuple[str, ...] = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""Okabe and Ito's colours (Color Universal Design, 2008) in order of use, without yellow: too faint on white."""

PANEL_WIDTH, PANEL_HEIGHT = 4.8, 3.4
"""Inches of one panel."""

_DOTS = 150  # per inch, of the PNGs
_LABEL_GAP = 7.0  # points between the end of a line and its label
_LABEL_SHADE = 0.75  # of a line's colour in its label: thin text needs more contrast than a line
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_STYLE: Any = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": "0.4",
    "grid.color": "0.9",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.color": "0.25",
    "ytick.color": "0.25",
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    # Glyphs as outlines: the labels keep the widths that they were placed with, on a machine without the font too.
    "svg.fonttype": "path",
    # The same table gives the same file.
    "svg.hashsalt": "gelato",
}


def style() -> contextlib.AbstractContextManager[None]:
    """The look of the figures, for a `with` around drawing and saving."""
    return matplotlib.rc_context(_STYLE)


def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    panel_width: float = PANEL_WIDTH,
    panel_height: float = PANEL_HEIGHT,
    **grid: Any,
) -> tuple[Figure, np.ndarray]:
    """An empty figure, made without pyplot, so that nothing global keeps it.

    Args:
        rows: panels from top to bottom.
        columns: panels from left to right.
        panel_width: inches of each.
        panel_height: inches of each.
        **grid: what else `Figure.subplots` takes, as `sharey=True`.

    Returns:
        The figure, and its axes `[rows, columns]`.
    """
    figure = Figure(figsize=(panel_width * columns, panel_height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


class _Label(Annotation):
    """A direct label, which `place_labels` may move up or down."""


def label_line(ax: Axes, x: float, y: float, text: str, color: Any) -> None:
    """Write a name right of a point, as a rule the last of a line.

    Labels that would cover each other are moved up and down by `save`.

    Args:
        ax: where.
        x: of the point, in data.
        y: of the point, in data; a point that is not finite gets no label.
        text: the name.
        color: the line's.
    """
    if not (np.isfinite(x) and np.isfinite(y)):
        return
    label = _Label(
        text,
        (x, y),
        xytext=(_LABEL_GAP, 0.0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=9,
        color=tuple(_LABEL_SHADE * part for part in to_rgb(color)),
        annotation_clip=False,
    )
    label.set_transform(IdentityTransform())
    ax.add_artist(label)
    label.set_clip_on(False)  # adding clips it to the panel, beyond which the layout would leave no room


def place_labels(figure: Figure) -> None:
    """Move direct labels up and down until none covers another. `save` does it; a finished figure may be done again."""
    if not isinstance(figure.canvas, FigureCanvasAgg):
        FigureCanvasAgg(figure)
    for axes in figure.axes:
        for label in _labels(axes):
            label.set_position((_LABEL_GAP, 0.0))
    figure.draw_without_rendering()  # the layout decides where the points lie
    renderer = cast(FigureCanvasAgg, figure.canvas).get_renderer()
    for axes in figure.axes:
        for group in _columns([(label, label.get_window_extent(renderer)) for label in _labels(axes)]):
            heights = [box.height for _, box in group]
            wanted = [(box.y0 + box.y1) / 2 for _, box in group]
            for (label, _), old, new in zip(group, wanted, spread(wanted, heights), strict=True):
                label.set_position((_LABEL_GAP, (new - old) * 72 / figure.dpi))


def spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places along a line that keep things of some sizes apart, with the least squared shift.

    Things that touch become a block, which lies at the mean of what its members want (pooling of adjacent violators).

    Args:
        wanted: the centre that each would have alone.
        sizes: of each.

    Returns:
        A centre for each, in the order of `wanted` values and, among equals, as given.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[tuple[list[int], float, float]] = []  # members, centre, size
    for index in order:
        members, centre, size = [index], wanted[index], sizes[index]
        while blocks and centre - size / 2 < blocks[-1][1] + blocks[-1][2] / 2:
            members = blocks.pop()[0] + members
            size = sum(sizes[member] for member in members)
            centre = _block_centre(members, wanted, sizes)
        blocks.append((members, centre, size))
    places = [0.0] * len(wanted)
    for members, centre, size in blocks:
        edge = centre - size / 2
        for member in members:
            places[member] = edge + sizes[member] / 2
            edge += sizes[member]
    return places


def _block_centre(members: Sequence[int], wanted: Sequence[float], sizes: Sequence[float]) -> float:
    """Where a block lies best: the mean over members of where each would have it."""
    total = sum(sizes[member] for member in members)
    edge, centres = 0.0, []
    for member in members:
        centres.append(wanted[member] - (edge + sizes[member] / 2) + total / 2)
        edge += sizes[member]
    return sum(centres) / len(centres)


def _labels(axes: Axes) -> list[_Label]:
    return [text for text in axes.texts if isinstance(text, _Label)]


def _columns(boxes: Iterable[tuple[_Label, Any]]) -> Iterator[list[tuple[_Label, Any]]]:
    """Labels that stand above each other, in groups: only those can overlap."""
    group: list[tuple[_Label, Any]] = []
    right = -np.inf
    for label, box in sorted(boxes, key=lambda entry: entry[1].x0):
        if group and box.x0 >= right:
            yield group
            group, right = [], -np.inf
        group.append((label, box))
        right = max(right, box.x1)
    if group:
        yield group


def save(figure: Figure, folder: Path) -> None:
    """Write `figure.svg` and `figure.png`, direct labels moved apart.

    Args:
        figure: drawn under `style()`, under which this is called too.
        folder: where; it exists.
    """
    place_labels(figure)
    place_labels(figure)  # labels that moved may have changed the layout
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    with atomic_write(folder / "figure.svg") as file:
        file.write(_bare(drawing.getvalue()).encode())
    save_png(figure, folder / "figure.png")


def save_png(figure: Figure, path: Path) -> None:
    """Write a PNG, and it alone; called under `style()`."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=_DOTS, metadata={"Software": None})


def _bare(svg: str) -> str:
    """An SVG without the document type and metadata that matplotlib writes: both are addresses of other places."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
