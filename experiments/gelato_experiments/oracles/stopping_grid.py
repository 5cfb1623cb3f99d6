"""The problem of `entropy_stopping`, with the grid on which a device keeps its survival A.

A_i is kept on a grid. Where the products of acceptances are few, the grid holds them all and everything is
exact. Else a value between two points is interpolated; as the value is convex in A (a maximum of linear
functions, averaged), this overestimates it, so that the dual bound stays a bound. A rule on the grid is a
rule of the real device too: it rounds its A to a neighbouring point at random, without bias. Its tokens,
seconds and joules are computed exactly, so the rate reported is achieved on the model, and the distance to
the bound is all that the grid may have cost.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from gelato_experiments.oracles.costs import RoundCosts
from gelato_experiments.oracles.entropy_model import EntropyModel, distribution

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SAME_PRODUCT = 1e-12  # relative; products of the same classes in another order differ by rounding
GRID_POWER = 2.5  # points at (j / n)^2.5: dense near 0 in proportion, where thresholds lie, and enough near 1


@dataclass(frozen=True, eq=False)
class World:
    """The problem, checked, with its grid."""

    probability: Floats  # [W]
    model: EntropyModel
    costs: RoundCosts
    survival: Floats  # [n]
    after: csr_array  # [C n, C n] values at the grid -> values at grid * acceptance, class by class

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, grid points, link states."""
        return len(self.model.acceptance), len(self.survival), len(self.probability)


def make_world(probability: ArrayLike, model: EntropyModel, costs: RoundCosts, max_points: int) -> World:
    """Check a problem and lay its grid.

    Args:
        probability: [W] of the link states.
        model: of the entropies.
        costs: of a round.
        max_points: of the grid.

    Raises:
        ValueError: `max_points` is under 2, or `probability` is no distribution.
    """
    if max_points < 2:
        raise ValueError(f"max_points must be 2 or more, got {max_points}")
    checked = distribution("probability", probability, costs.base_s.shape)
    survival = _grid(model.acceptance, costs.max_draft_length, max_points)
    return World(checked, model, costs, survival, _interpolation(survival, model.acceptance))


def _grid(acceptance: Floats, max_draft_length: int, max_points: int) -> Floats:
    """[n] increasing, from 0 to 1: every product of up to G acceptances, or powers of equal steps."""
    points = np.array([0.0, 1.0])
    for _ in range(max_draft_length):
        points = np.unique(np.append(points, np.outer(acceptance, points)))
        points = points[np.append(True, np.diff(points) > SAME_PRODUCT * points[1:])]
        if len(points) > max_points:
            return np.linspace(0.0, 1.0, max_points) ** GRID_POWER
    # 1 may have been taken for a product just below it.
    return np.append(points[:-1], 1.0)


def _interpolation(survival: Floats, acceptance: Floats) -> csr_array:
    """[C n, C n]: rows are (class, point); each has the weights of the two points around point * acceptance.

    Its transpose rounds: it sends a share of a point's mass to each of the two, without bias.
    """
    count = len(survival)
    at = np.outer(acceptance, survival)
    upper = np.clip(np.searchsorted(survival, at), 1, count - 1)
    weight = (at - survival[upper - 1]) / (survival[upper] - survival[upper - 1])
    block = count * np.arange(len(acceptance))[:, None]
    columns = np.stack([upper - 1 + block, upper + block], axis=-1)
    weights = np.stack([1.0 - weight, weight], axis=-1)
    return csr_array(
        (weights.ravel(), columns.ravel(), np.arange(0, weights.size + 1, 2)), shape=(block.size * count,) * 2
    )
