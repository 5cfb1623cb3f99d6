"""Fits: what a draft's entropy says about its acceptance, and how far off what it says is."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gelato_jax.training.trace import Trace
from gelato_jax.types import KNOWN_POSITIONS, Calibration

CLASSES = 8
"""Entropy classes of a calibration, as many as the assumed one has."""
_BINS = 10  # of the calibration error
_STEPS = 100  # of the curve's fit, at most
_STARTS = ((1.0, 0.1), (1.0, 0.35), (1.0, 1.0), (0.5, 0.0))  # (scale, decay); the second is the reported curve

Distribution = Literal["greedy", "sampled"]


def outcomes(trace: Trace, distribution: Distribution) -> np.ndarray:
    """What is to be predicted, `[M, X]`: agreement as 0 or 1 (greedy), acceptance at temperature 1 (sampled)."""
    return np.asarray(trace.agreement if distribution == "greedy" else trace.acceptance, np.float64)


def chances(trace: Trace, distribution: Distribution) -> np.ndarray:
    """Chance `[M, X]` that the token in the text was drafted and accepted, given the text."""
    return np.asarray(trace.agreement if distribution == "greedy" else trace.chance, np.float64)


def joined(traces: Sequence[Trace]) -> Trace:
    """Traces, one after the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *traces)


def curve(scale: float | np.ndarray, decay: float | np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """alpha(H) = min(1, scale exp(-decay H)), H in nats."""
    return np.minimum(1.0, scale * np.exp(-decay * entropy))


def fit_curve(entropy: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """Least squares of `curve`: Levenberg-Marquardt from a few starts, the best of them.

    Args:
        entropy: `[M]` nats.
        outcome: `[M]` in [0, 1].

    Returns:
        scale > 0, and decay >= 0 per nat.
    """
    fits = [_descend(entropy, outcome, *start) for start in _STARTS]
    _, scale, decay = min(fits)
    return scale, decay


def _descend(entropy: np.ndarray, outcome: np.ndarray, scale: float, decay: float) -> tuple[float, float, float]:
    """Mean squared error, scale and decay that one start leads to."""

    def error(scale: float, decay: float) -> float:
        return float(np.mean(np.square(outcome - curve(scale, decay, entropy))))

    best, damping = error(scale, decay), 1e-3
    for _ in range(_STEPS):
        below = scale * np.exp(-decay * entropy) < 1.0  # where the cap is reached nothing moves
        value = curve(scale, decay, entropy)
        slopes = np.stack([value * below, -entropy * value * below], axis=1)  # by log scale, by decay
        normal = slopes.T @ slopes
        normal += damping * np.diag(np.diag(normal)) + 1e-12 * len(entropy) * np.eye(2)
        log_step, decay_step = np.linalg.solve(normal, slopes.T @ (outcome - value))
        tried = scale * float(np.exp(np.clip(log_step, -2.0, 2.0))), max(0.0, decay + float(decay_step))
        if (reached := error(*tried)) < best:
            small = best - reached < 1e-12
            (scale, decay), best, damping = tried, reached, damping / 4
            if small:
                break
        elif damping > 1e8:
            break
        else:
            damping *= 8
    return best, scale, decay


def non_increasing(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-increasing sequence nearest to `values` in weighted squares: neighbours out of order are pooled."""
    blocks: list[list[float]] = []  # mean, weight, size
    for value, weight in zip(values, weights, strict=True):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            mean, weight, size = blocks.pop()
            before = blocks[-1]
            total = before[1] + weight
            share = weight / total if total > 0 else 0.5
            blocks[-1] = [before[0] + share * (mean - before[0]), total, before[2] + size]
    return np.concatenate([np.full(int(size), mean) for mean, _, size in blocks])


def class_of(edges: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Class of each entropy: the number of edges below it."""
    return np.searchsorted(edges, entropy, side="left")


def class_means(
    classes: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None, *, count: int
) -> np.ndarray:
    """Mean of `values [M, ...]` in each of `count` classes.

    The mean of all counts as one more value of every class, so that an empty one has a mean too (assumed).
    """
    weights = np.ones(len(values)) if weights is None else weights
    flat = values.reshape(len(values), -1)
    total = max(weights.sum(), 1e-9)
    overall = (weights[:, None] * flat).sum(axis=0) / total
    sums = np.stack([np.bincount(classes, weights * column, count) for column in flat.T], axis=1)
    mass = np.bincount(classes, weights, count)[:, None]
    return ((sums + overall) / (mass + 1.0)).reshape(count, *values.shape[1:])


def fit_calibration(traces: Sequence[Trace], distribution: Distribution, *, classes: int = CLASSES) -> Calibration:
    """Fit all of a calibration to answers of one distribution.

    - `scale`, `decay`, `class_acceptance`: acceptance at an exit, given the entropy there;
    - `next_acceptance`: acceptance of the next token, given that this one is accepted (a rejected
      token has no draft token after it) and the class of its entropy, at the deepest exit;
    - `deeper_acceptance`: acceptance at every exit, given what the check of an exit says, for that is
      what a depth rule knows;
    - `conditional_acceptance`: by position in a round, at the deepest exit (`fit_conditional`).

    Args:
        traces: of answers written greedily, or sampled at temperature 1, as `distribution` says.
        distribution: which outcome is fitted.
        classes: C; the edges are quantiles of the entropy at all exits.
    """
    trace = joined(traces)
    outcome, entropy, probe = (
        outcomes(trace, distribution),
        np.asarray(trace.entropy, np.float64),
        np.asarray(trace.probe),
    )
    exits = entropy.shape[1]
    quantiles = np.arange(1, classes) / classes
    edges = np.quantile(entropy, quantiles)
    fits = [fit_curve(entropy[:, index], outcome[:, index]) for index in range(exits)]
    class_acceptance = []
    for index in range(exits):
        members = class_of(edges, entropy[:, index])
        means = class_means(members, outcome[:, index], count=classes)
        class_acceptance.append(non_increasing(means, np.bincount(members, minlength=classes) + 1.0))
    pairs = [t for t in traces if len(t.entropy) > 1]
    here = np.concatenate([class_of(edges, np.asarray(t.entropy)[:-1, -1]) for t in pairs])
    accepted = np.concatenate([chances(t, distribution)[:-1, -1] for t in pairs])
    following = np.concatenate([outcomes(t, distribution)[1:, -1] for t in pairs])
    deeper = [class_means(class_of(edges, probe[:, index]), outcome, count=classes) for index in range(exits)]
    fields = {
        "scale": [scale for scale, _ in fits],
        "decay": [decay for _, decay in fits],
        "mean_acceptance": outcome[:, -1].mean(),
        "class_edges": edges,
        "class_acceptance": np.stack(class_acceptance),
        "next_acceptance": class_means(here, following, accepted, count=classes),
        "deeper_acceptance": np.stack(deeper),
        "conditional_acceptance": fit_conditional(traces, distribution),
    }
    return Calibration(**{name: jnp.asarray(value, jnp.float32) for name, value in fields.items()})


def fit_conditional(traces: Sequence[Trace], distribution: Distribution) -> np.ndarray:
    """Acceptance `[P]` of a round's i-th draft, all before it accepted, at the deepest exit.

    Rounds are those that begin after a rejection, or with the text. One more draft of mean acceptance counts at
    every position.
    """
    reached, accepted = np.full(KNOWN_POSITIONS, 1e-9), np.zeros(KNOWN_POSITIONS)
    for trace in traces:
        kept, outcome = chances(trace, distribution)[:, -1], outcomes(trace, distribution)[:, -1]
        alive = np.concatenate([[1.0], 1.0 - kept[:-1]])  # chance that a round begins at each token
        for position in range(min(KNOWN_POSITIONS, len(kept))):
            begun = len(kept) - position
            reached[position] += alive[:begun].sum()
            accepted[position] += alive[:begun] @ outcome[position:]
            alive = alive[:begun] * kept[position:]
    mean = accepted.sum() / reached.sum()
    return (accepted + mean) / (reached + 1.0)


def calibration_error(predicted: np.ndarray, outcome: np.ndarray, bins: int = _BINS) -> tuple[float, list[dict]]:
    """Expected calibration error: mean distance of prediction and outcome over bins of equal counts.

    Equal predictions share a bin (those of a class do), so bins may be fewer and fuller.

    Returns:
        The error, and for each bin that holds something `predicted`, `observed` and `count`.
    """
    edges = np.quantile(predicted, np.arange(1, bins) / bins)
    members = np.searchsorted(edges, predicted, side="left")
    table = []
    for index in np.unique(members):
        inside = members == index
        table.append(
            {
                "predicted": float(predicted[inside].mean()),
                "observed": float(outcome[inside].mean()),
                "count": int(inside.sum()),
            }
        )
    distances = [row["count"] * abs(row["predicted"] - row["observed"]) for row in table]
    return sum(distances) / len(predicted), table


def predictions(calibration: Calibration, entropy: np.ndarray) -> dict[str, np.ndarray]:
    """What each fit predicts from `entropy [M, X]`, `[M, X]`: `curve` and `classes`."""
    fields = {name: np.asarray(value, np.float64) for name, value in calibration_lists(calibration).items()}
    members = class_of(fields["class_edges"], entropy)
    exits = np.arange(entropy.shape[1])
    return {
        "curve": curve(fields["scale"], fields["decay"], entropy.astype(np.float64)),
        "classes": fields["class_acceptance"][exits[None, :], members],
    }


def reliability(calibration: Calibration, traces: Sequence[Trace], distribution: Distribution) -> dict[str, Any]:
    """Expected calibration error and its bins, for each fit, at each exit, on some answers."""
    trace = joined(traces)
    outcome, entropy = outcomes(trace, distribution), np.asarray(trace.entropy)
    report: dict[str, Any] = {}
    for name, predicted in predictions(calibration, entropy).items():
        columns = [calibration_error(predicted[:, index], outcome[:, index]) for index in range(outcome.shape[1])]
        report[name] = {"error": [error for error, _ in columns], "bins": [table for _, table in columns]}
    return report


def split_prompts(prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts that a fit sees, and those that it does not: a half each, drawn."""
    order = np.random.default_rng(seed).permutation(prompts)
    return np.sort(order[: (prompts + 1) // 2]), np.sort(order[(prompts + 1) // 2 :])


def calibration_lists(calibration: Calibration) -> dict[str, Any]:
    """A calibration's fields, as files name them, as numbers and lists of numbers, ready for JSON."""
    return {name: np.asarray(value).tolist() for name, value in calibration.stored().items()}
