"""Figures of drafts, made from the JSON of `gelato eval-draft` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LAWS = {"greedy": "greedy decoding", "sampled": "temperature 1"}
_DOTS = 120  # per inch, of the PNGs

Report = Mapping[str, Any]


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the figures of one draft: `reliability.png`, `acceptance.png` and `rounds.png`.

    Args:
        report: what `eval.json` holds.
        folder: where; it exists.
    """
    figures = {"reliability": _reliability, "acceptance": _acceptance, "rounds": _rounds}
    return [_save(make(report), folder / f"{name}.png") for name, make in figures.items()]


def frontier(reports: Mapping[str, Report], path: Path) -> Path:
    """Draw acceptance against cost, a line of exits for every draft.

    Args:
        reports: by the name that a draft has in the figure.
        path: of the PNG.
    """
    figure, panels = _panels(_laws(next(iter(reports.values()))))
    for law, axes in panels.items():
        for name, report in reports.items():
            if law in report:
                costs, reached = _costs(report), report[law]["average"]["acceptance"]
                axes.plot(costs, reached, marker="o", label=name)
                for cost, height, depth in zip(costs, reached, report["exits"], strict=True):
                    axes.annotate(str(depth), (cost, height), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(xlabel="cost of a draft token, share of a target step", ylabel="acceptance", title=_LAWS[law])
        axes.grid(alpha=0.3)
    next(iter(panels.values())).legend(fontsize=8)
    return _save(figure, path)


def scaling(by_text: Mapping[int, Report], by_shape: Mapping[str, Report], path: Path) -> Path:
    """Draw what more text and more draft are worth, every token at the deepest exit.

    Args:
        by_text: drafts of one shape, by the tokens that they learned from.
        by_shape: drafts of several shapes that learned from the same text, by name.
        path: of the PNG.
    """
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = sorted(by_text)
    costs = {name: round(report["cost"]["weights"][-1], 3) for name, report in by_shape.items()}
    for law, marker in zip(_LAWS, ("o", "s"), strict=True):
        deepest = lambda report, law=law: report[law]["average"]["acceptance"][-1]  # noqa: E731
        left.plot(sizes, [deepest(by_text[tokens]) for tokens in sizes], marker=marker, label=_LAWS[law])
        right.plot(list(costs.values()), [deepest(by_shape[name]) for name in costs], marker, label=_LAWS[law])
    for cost in sorted(set(costs.values())):  # drafts of one cost share a label below their points
        names = [name for name in costs if costs[name] == cost]
        lowest = min(by_shape[name][law]["average"]["acceptance"][-1] for name in names for law in _LAWS)
        place = {"textcoords": "offset points", "xytext": (0, -6), "ha": "center", "va": "top"}
        right.annotate("\n".join(names), (cost, lowest), fontsize=8, **place)
    left.set(xscale="log", xlabel="tokens of text", ylabel="acceptance of the head alone", title="one shape, more text")
    left.set_xticks(sizes, [f"{tokens / 1000:.0f}k" for tokens in sizes])
    left.minorticks_off()
    right.set(xlabel="weights read, share of a target step", ylabel="acceptance of the head alone")
    right.set_title(f"{min(by_text) / 1000:.0f}k tokens, other drafts")
    right.margins(x=0.12, y=0.2)
    for axes in (left, right):
        axes.legend(fontsize=8, loc="upper left")
        axes.grid(alpha=0.3)
    return _save(figure, path)


def _costs(report: Report) -> list[float]:
    """Measured where it was, else by weights."""
    measured = report["cost"].get("measured")
    return measured["share"] if measured else report["cost"]["weights"]


def _laws(report: Report) -> list[str]:
    return [law for law in _LAWS if law in report]


def _panels(laws: list[str]) -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(figsize=(5.0 * len(laws), 4.2), layout="constrained")
    row = figure.subplots(1, len(laws), squeeze=False)[0]
    return figure, dict(zip(laws, row, strict=True))


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DOTS)
    return path


def _reliability(report: Report) -> Figure:
    """Observed against predicted acceptance, on the prompts that no fit has seen."""
    figure, panels = _panels(_laws(report))
    for law, axes in panels.items():
        held_out = report[law]["reliability"]["held_out"] or report[law]["reliability"]["fitted"]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for fit, style in (("curve", "o-"), ("classes", "s:")):
            for index, depth in enumerate(report["exits"]):
                bins = held_out[fit]["bins"][index]
                label = f"{fit}, exit {depth}: error {held_out[fit]['error'][index]:.3f}"
                places = [row["predicted"] for row in bins], [row["observed"] for row in bins]
                axes.plot(*places, style, markersize=4, color=f"C{index}", label=label)
        axes.set(xlabel="predicted from the entropy", ylabel="observed", title=f"acceptance, {_LAWS[law]}")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _acceptance(report: Report) -> Figure:
    """By exit in every category above, by entropy below."""
    laws = _laws(report)
    figure = Figure(figsize=(5.5 * len(laws), 8.0), layout="constrained")
    grid = figure.subplots(2, len(laws), squeeze=False)
    for column, law in enumerate(laws):
        _by_category(grid[0][column], report, law)
        axes = grid[1][column]
        for index, depth in enumerate(report["exits"]):
            rows, fields = report[law]["by_entropy"][index], report[law]["calibration"]
            entropy = [row["entropy"] for row in rows]
            axes.plot(entropy, [row["acceptance"] for row in rows], "o", color=f"C{index}", label=f"exit {depth}")
            axes.plot(*_curve(fields["scale"][index], fields["decay"][index], max(entropy)), color=f"C{index}")
        axes.set(xlabel="entropy of the draft, nats", ylabel="acceptance", ylim=(0, 1.02), title=_LAWS[law])
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _by_category(axes: Axes, report: Report, law: str) -> None:
    categories, exits = report[law]["categories"], report["exits"]
    width = 0.8 / len(exits)
    for index, depth in enumerate(exits):
        places = [number + index * width for number in range(len(categories))]
        heights = [row["acceptance"][index] for row in categories.values()]
        mean = report[law]["average"]["acceptance"][index]
        axes.barh(places, heights, width, color=f"C{index}", label=f"exit {depth}, mean {mean:.3f}")
        axes.axvline(mean, color=f"C{index}", linestyle=":", linewidth=1)
    centre = 0.4 - width / 2
    axes.set_yticks([number + centre for number in range(len(categories))], list(categories))
    axes.invert_yaxis()
    axes.set(xlabel="acceptance", xlim=(0, 1), title=_LAWS[law])
    axes.legend(fontsize=8)


def _curve(scale: float, decay: float, longest: float) -> tuple[list[float], list[float]]:
    """Points of alpha(H) = min(1, scale exp(-decay H))."""
    import numpy as np

    entropy = np.linspace(0.0, longest, 100)
    return entropy.tolist(), np.minimum(1.0, scale * np.exp(-decay * entropy)).tolist()


def _rounds(report: Report) -> Figure:
    """Tokens of a round against draft length, every token at one exit."""
    figure, panels = _panels(_laws(report))
    for law, axes in panels.items():
        for index, depth in enumerate(report["exits"]):
            heights = report[law]["average"]["tokens_per_round"][index]
            axes.plot(range(1, len(heights) + 1), heights, marker="o", markersize=4, label=f"exit {depth}")
        axes.set(xlabel="draft length", ylabel="tokens per round", title=_LAWS[law])
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure
