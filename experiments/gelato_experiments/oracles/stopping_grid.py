"""The problem of `entropy_stopping`, with the grid on which a device keeps its belief A.

A_i, the chance that all drafts so far are accepted given their classes, is kept on a grid. Where the beliefs that can
be reached are few, the grid holds them all and everything is exact. Else a value between two points is interpolated; as
the value is convex in a belief (a maximum of linear functions, averaged), this overestimates it, so that the dual bound
stays a bound. A rule on the grid is a rule of the real device too: it rounds its A to a neighbouring point at random.
Its tokens, seconds and joules are computed exactly, so the rate reported is achieved on the model, and the distance to
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
class Step:
    """From (class, grid point) behind a draft to (class, grid point) behind the next, its class seen."""

    on: csr_array  # [C n, C n] chances while all drafts before the next are accepted
    off: csr_array  # [C n, C n] behind a rejection
    either: csr_array  # [C n, C n] as the device believes
    accepted: Floats  # [C] chance that the next draft is accepted, by the class before it, on the track


@dataclass(frozen=True, eq=False)
class World:
    """The problem, checked, with its grid."""

    probability: Floats  # [W]
    model: EntropyModel
    costs: RoundCosts
    survival: Floats  # [n]
    begin: Floats  # [C, n] shares of the first draft's grid points, by its class
    steps: tuple[Step, ...]  # G - 1 of them

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, grid points, link states."""
        return self.model.classes, len(self.survival), len(self.probability)


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
    survival = _grid(model, costs.max_draft_length, max_points)
    classes, count = np.arange(model.classes), len(survival)
    upper, weight = _around(survival, model.accepts(0))
    begin = np.zeros((model.classes, count))
    begin[classes, upper - 1], begin[classes, upper] = 1.0 - weight, weight
    same = model.acceptance.ndim == 1 and model.transition.ndim == 2
    steps = [_step(model, survival, 1)] * (costs.max_draft_length - 1) if same else []
    steps = steps or [_step(model, survival, place) for place in range(1, costs.max_draft_length)]
    return World(checked, model, costs, survival, begin, tuple(steps))


def believed(model: EntropyModel, place: int, survival: Floats) -> Floats:
    """[C, n, C] beliefs behind the draft at `place`: by the class before it, the belief then `[n]`, and its class."""
    on, off = (table[:, None, :] for table in model.moves(place - 1))
    both = survival[:, None] * on + (1.0 - survival[:, None]) * off
    return survival[:, None] * on / np.where(both > 0.0, both, 1.0) * model.accepts(place)


def _grid(model: EntropyModel, max_draft_length: int, max_points: int) -> Floats:
    """[n] increasing, from 0 to 1: every belief that can be reached, or powers of equal steps."""
    points = np.unique([0.0, *model.accepts(0), 1.0])
    for place in range(1, max_draft_length):
        points = np.unique(np.append(points, believed(model, place, points)))
        points = points[np.append(True, np.diff(points) > SAME_PRODUCT * points[1:])]
        if len(points) > max_points:
            return np.linspace(0.0, 1.0, max_points) ** GRID_POWER
    # 1 may have been taken for a product just below it.
    return np.append(points[:-1], 1.0)


def _around(survival: Floats, at: Floats) -> tuple[NDArray[np.intp], Floats]:
    """The grid point above each belief, and its weight against the one below."""
    upper = np.clip(np.searchsorted(survival, at), 1, len(survival) - 1)
    weight = (at - survival[upper - 1]) / (survival[upper] - survival[upper - 1])
    return upper, np.clip(weight, 0.0, 1.0)


def _step(model: EntropyModel, survival: Floats, place: int) -> Step:
    """To the draft at `place`: each of the two grid points around a belief gets its share, without bias."""
    classes, count = model.classes, len(survival)
    on, off = model.moves(place - 1)
    upper, weight = _around(survival, believed(model, place, survival))  # [C, n, C]
    block = count * np.arange(classes)
    columns = np.stack([upper - 1 + block, upper + block], axis=-1).reshape(classes * count, -1)
    weights = np.stack([1.0 - weight, weight], axis=-1)
    rows = np.arange(0, columns.size + 1, columns.shape[1])

    def table(chance: Floats) -> csr_array:
        values = (chance[..., None] * weights).ravel()
        return csr_array((values, columns.ravel(), rows), shape=(classes * count,) * 2)

    on, off = (np.broadcast_to(chance[:, None, :], upper.shape) for chance in (on, off))
    share = survival[None, :, None]
    return Step(table(on), table(off), table(share * on + (1.0 - share) * off), on[:, 0] @ model.accepts(place))
