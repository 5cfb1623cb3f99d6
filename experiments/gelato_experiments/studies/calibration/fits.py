"""What the study `calibration` reads off a recording: drafted tokens, and calibrations fitted to them."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from gelato_jax import control
from gelato_jax.simulation import Recording
from gelato_jax.training.calibrate import class_means, class_of, fit_curve, non_increasing
from gelato_jax.types import Calibration

UNSCALED = "shipped, unscaled"
"""The shipped calibration, read without a row's own level."""
KINDS = ("shipped", UNSCALED, "refitted", "reported", "constant")
"""Calibrations whose worth is measured."""


class Tokens(NamedTuple):
    """Drafted tokens `[M]` of one exit: the text of each, its entropy, its acceptance, the weight it counts with."""

    text: np.ndarray
    entropy: np.ndarray
    outcome: np.ndarray
    weight: np.ndarray


def tokens(recording: Recording, exit: int, *, later: bool) -> Tokens:
    """First draft tokens of every position, or the later ones weighted by the chance that one reaches them.

    Args:
        recording: of a pair.
        exit: index.
        later: which.
    """
    rollouts = recording.rollouts
    inside = np.arange(rollouts.chance.shape[1]) < rollouts.positions[:, None]
    text, _ = np.nonzero(inside)
    entropy = np.asarray(rollouts.entropy[inside][:, exit], np.float64)
    chance = np.asarray(rollouts.chance[inside][:, exit], np.float64)
    if not later:
        return Tokens(text, entropy[:, 0], chance[:, 0], np.ones(len(text)))
    reached = np.cumprod(chance, axis=1)[:, :-1]
    text = np.repeat(text, reached.shape[1])
    return Tokens(text, entropy[:, 1:].reshape(-1), chance[:, 1:].reshape(-1), reached.reshape(-1))


def pairs(recording: Recording, calibration: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class of a first token, acceptance of the second, and chance that the first is accepted, at the deepest exit."""
    rollouts = recording.rollouts
    inside = np.arange(rollouts.chance.shape[1]) < rollouts.positions[:, None]
    entropy, chance = rollouts.entropy[inside][:, -1], np.asarray(rollouts.chance[inside][:, -1], np.float64)
    return class_of(np.asarray(calibration.class_edges), np.asarray(entropy[:, 0])), chance[:, 1], chance[:, 0]


def constant_calibration(calibration: Calibration) -> Calibration:
    """A calibration that expects the mean of every token, whatever its entropy: no information."""
    mean = np.asarray(calibration.mean_acceptance)
    same = {
        name: np.full_like(np.asarray(getattr(calibration, name)), mean)
        for name in ("scale", "class_acceptance", "next_acceptance", "deeper_acceptance", "conditional_acceptance")
    }
    return dataclasses.replace(calibration, decay=np.zeros_like(np.asarray(calibration.decay)), **same)


def refitted(recording: Recording) -> Calibration:
    """The calibration fitted to a recording's own first and second draft tokens; depth and places stay as they are."""
    old = recording.calibration
    drawn = [tokens(recording, exit, later=False) for exit in range(len(recording.work))]
    fits = [fit_curve(part.entropy, part.outcome) for part in drawn]
    edges, count = np.asarray(old.class_edges), len(old.next_acceptance)
    classes = []
    for part in drawn:
        members = class_of(edges, part.entropy)
        means = class_means(members, part.outcome, count=count)
        classes.append(non_increasing(means, np.bincount(members, minlength=count) + 1.0))
    here, behind, chance = pairs(recording, old)
    fields: dict[str, Any] = {
        "scale": [scale for scale, _ in fits],
        "decay": [decay for _, decay in fits],
        "mean_acceptance": drawn[-1].outcome.mean(),
        "class_acceptance": classes,
        "next_acceptance": class_means(here, behind, chance, count=count),
    }
    return dataclasses.replace(old, **{name: np.asarray(value, np.float32) for name, value in fields.items()})


def calibrations(recording: Recording) -> dict[str, Calibration]:
    """By name, all of as many classes: one program serves them."""
    shipped = recording.calibration
    made = {
        "shipped": shipped,
        UNSCALED: shipped,
        "refitted": refitted(recording),
        "reported": control.default_calibration(len(recording.work)),
        "constant": constant_calibration(shipped),
    }
    classes = max(len(calibration.next_acceptance) for calibration in made.values())
    return {name: _widened(calibration, classes) for name, calibration in made.items()}


def _widened(calibration: Calibration, classes: int) -> Calibration:
    """The same calibration with classes above all entropies."""
    more = classes - len(calibration.next_acceptance)
    places = {"class_acceptance": 1, "next_acceptance": 0, "deeper_acceptance": 1}
    fields: dict[str, Any] = {"class_edges": np.pad(calibration.class_edges, (0, more), constant_values=np.inf)}
    for name, axis in places.items():
        table = np.asarray(getattr(calibration, name))
        fields[name] = np.pad(table, [(0, more if place == axis else 0) for place in range(table.ndim)], mode="edge")
    return dataclasses.replace(calibration, **fields)
