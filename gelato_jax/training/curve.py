"""The training curve: a figure made from a run's log alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gelato_jax.files import atomic_write
from gelato_jax.training.run import read_log

_SMOOTHED = 20  # logged steps after each point of a training line
_PANELS = (("loss", "loss"), ("acceptance", "1 - TV(target, draft)"), ("agreement", "greedy agreement, greedy text"))


def plot_curve(work: Path, destination: Path, exits: Sequence[int]) -> None:
    """Draw loss, acceptance and agreement over steps.

    Lines are training batches, averaged over some; markers are text that is not trained on.

    Args:
        work: the folder of the run's `log.jsonl`.
        destination: the .png file.
        exits: layer counts of the draft's exits, for the legend.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    log = read_log(work)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        lines = (
            [("loss", None)]
            if name == "loss"
            else [(f"{name}_{i}", f"{depth} layers") for i, depth in enumerate(exits)]
        )
        for key, legend in lines:
            trained, values = _series(log, "train", key)
            (line,) = axes.plot(trained, _running_mean(values), linewidth=1.2, label=legend)
            axes.plot(*_series(log, "held_out", key), "o", markersize=4, color=line.get_color())
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        if name != "loss":
            axes.legend(title="after", frameon=False)
    with atomic_write(destination) as file:
        figure.savefig(file, format="png", dpi=120)


def _series(log: Sequence[dict[str, Any]], kind: str, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity."""
    lines = [line for line in log if line["kind"] == kind and key in line]
    return [line["step"] for line in lines], [line[key] for line in lines]


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """The mean of each value and of those shortly before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - _SMOOTHED)
    return (sums[ends] - sums[starts]) / (ends - starts)
