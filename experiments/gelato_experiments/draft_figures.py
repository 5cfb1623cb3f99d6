"""Figures of drafts, made from the JSON of `gelato eval-draft` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_DECODINGS = {"greedy": "greedy decoding", "sampled": "temperature 1"}
_DOTS = 120  # per inch, of the PNGs

Evaluation = Mapping[str, Any]


def draw(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the figures of one draft: `reliability.png`, `acceptance.png` and `rounds.png`.

    Args:
        evaluation: what `eval.json` holds.
        folder: where; it exists.
    """
    figures = {"reliability": _reliability, "acceptance": _acceptance, "rounds": _rounds}
    return [_save(make(evaluation), folder / f"{name}.png") for name, make in figures.items()]


def frontier(evaluations: Mapping[str, Evaluation], path: Path) -> Path:
    """Draw acceptance against cost, a line of exits for every draft.

    Args:
        evaluations: by the name that a draft has in the figure.
        path: of the PNG.
    """
    figure, panels = _panels(_decodings(next(iter(evaluations.values()))))
    for decoding, axes in panels.items():
        for name, evaluation in evaluations.items():
            if decoding in evaluation:
                costs, reached = _costs(evaluation), evaluation[decoding]["average"]["acceptance"]
                axes.plot(costs, reached, marker="o", label=name)
                for cost, height, depth in zip(costs, reached, evaluation["exits"], strict=True):
                    axes.annotate(str(depth), (cost, height), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axes.set(
            xlabel="cost of a draft token, share of a target step", ylabel="acceptance", title=_DECODINGS[decoding]
        )
        axes.grid(alpha=0.3)
    next(iter(panels.values())).legend(fontsize=8)
    return _save(figure, path)


def scaling(by_text: Mapping[int, Evaluation], by_shape: Mapping[str, Evaluation], path: Path) -> Path:
    """Draw what more text and more draft are worth, every token at the deepest exit.

    Args:
        by_text: drafts of one shape, by the tokens that they learned from.
        by_shape: drafts of several shapes that learned from the same text, by name.
        path: of the PNG.
    """
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = sorted(by_text)
    costs = {name: round(evaluation["cost"]["weights"][-1], 3) for name, evaluation in by_shape.items()}
    for decoding, marker in zip(_DECODINGS, ("o", "s"), strict=True):
        deepest = lambda evaluation, decoding=decoding: evaluation[decoding]["average"]["acceptance"][-1]  # noqa: E731
        left.plot(sizes, [deepest(by_text[tokens]) for tokens in sizes], marker=marker, label=_DECODINGS[decoding])
        right.plot(
            list(costs.values()), [deepest(by_shape[name]) for name in costs], marker, label=_DECODINGS[decoding]
        )
    for cost in sorted(set(costs.values())):  # drafts of one cost share a label below their points
        names = [name for name in costs if costs[name] == cost]
        lowest = min(by_shape[name][decoding]["average"]["acceptance"][-1] for name in names for decoding in _DECODINGS)
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


def _costs(evaluation: Evaluation) -> list[float]:
    """Measured where it was, else by weights."""
    measured = evaluation["cost"].get("measured")
    return measured["share"] if measured else evaluation["cost"]["weights"]


def _decodings(evaluation: Evaluation) -> list[str]:
    return [decoding for decoding in _DECODINGS if decoding in evaluation]


def _panels(decodings: list[str]) -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(figsize=(5.0 * len(decodings), 4.2), layout="constrained")
    row = figure.subplots(1, len(decodings), squeeze=False)[0]
    return figure, dict(zip(decodings, row, strict=True))


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DOTS)
    return path


def _reliability(evaluation: Evaluation) -> Figure:
    """Observed against predicted acceptance, on the prompts that no fit has seen."""
    figure, panels = _panels(_decodings(evaluation))
    for decoding, axes in panels.items():
        held_out = evaluation[decoding]["reliability"]["held_out"] or evaluation[decoding]["reliability"]["fitted"]
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for fit, style in (("curve", "o-"), ("classes", "s:")):
            for index, depth in enumerate(evaluation["exits"]):
                bins = held_out[fit]["bins"][index]
                label = f"{fit}, exit {depth}: error {held_out[fit]['error'][index]:.3f}"
                places = [row["predicted"] for row in bins], [row["observed"] for row in bins]
                axes.plot(*places, style, markersize=4, color=f"C{index}", label=label)
        axes.set(xlabel="predicted from the entropy", ylabel="observed", title=f"acceptance, {_DECODINGS[decoding]}")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _acceptance(evaluation: Evaluation) -> Figure:
    """By exit in every category above, by entropy below."""
    decodings = _decodings(evaluation)
    figure = Figure(figsize=(5.5 * len(decodings), 8.0), layout="constrained")
    grid = figure.subplots(2, len(decodings), squeeze=False)
    for column, decoding in enumerate(decodings):
        _by_category(grid[0][column], evaluation, decoding)
        axes = grid[1][column]
        for index, depth in enumerate(evaluation["exits"]):
            rows, fields = evaluation[decoding]["by_entropy"][index], evaluation[decoding]["calibration"]
            entropy = [row["entropy"] for row in rows]
            axes.plot(entropy, [row["acceptance"] for row in rows], "o", color=f"C{index}", label=f"exit {depth}")
            axes.plot(*_curve(fields["scale"][index], fields["decay"][index], max(entropy)), color=f"C{index}")
        axes.set(xlabel="entropy of the draft, nats", ylabel="acceptance", ylim=(0, 1.02), title=_DECODINGS[decoding])
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _by_category(axes: Axes, evaluation: Evaluation, decoding: str) -> None:
    categories, exits = evaluation[decoding]["categories"], evaluation["exits"]
    width = 0.8 / len(exits)
    for index, depth in enumerate(exits):
        places = [number + index * width for number in range(len(categories))]
        heights = [row["acceptance"][index] for row in categories.values()]
        mean = evaluation[decoding]["average"]["acceptance"][index]
        axes.barh(places, heights, width, color=f"C{index}", label=f"exit {depth}, mean {mean:.3f}")
        axes.axvline(mean, color=f"C{index}", linestyle=":", linewidth=1)
    centre = 0.4 - width / 2
    axes.set_yticks([number + centre for number in range(len(categories))], list(categories))
    axes.invert_yaxis()
    axes.set(xlabel="acceptance", xlim=(0, 1), title=_DECODINGS[decoding])
    axes.legend(fontsize=8)


def _curve(scale: float, decay: float, longest: float) -> tuple[list[float], list[float]]:
    """Points of alpha(H) = min(1, scale exp(-decay H))."""
    import numpy as np

    entropy = np.linspace(0.0, longest, 100)
    return entropy.tolist(), np.minimum(1.0, scale * np.exp(-decay * entropy)).tolist()


def _rounds(evaluation: Evaluation) -> Figure:
    """Tokens of a round against draft length, every token at one exit."""
    figure, panels = _panels(_decodings(evaluation))
    for decoding, axes in panels.items():
        for index, depth in enumerate(evaluation["exits"]):
            heights = evaluation[decoding]["average"]["tokens_per_round"][index]
            axes.plot(range(1, len(heights) + 1), heights, marker="o", markersize=4, label=f"exit {depth}")
        axes.set(xlabel="draft length", ylabel="tokens per round", title=_DECODINGS[decoding])
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure
