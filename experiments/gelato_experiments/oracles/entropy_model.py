"""A Markov model of the entropies of a round's drafts, and its estimate from rollouts.

What a device sees of drafts behind a rejection differs from what it sees while all is accepted: text that left the
target's track goes on otherwise. So classes move by one chain on the track and by another off it, and a class that is
likelier on the track is evidence of being there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TOTAL_TOLERANCE = 1e-6  # of a distribution given by the caller


@dataclass(frozen=True, eq=False)
class EntropyModel:
    """Entropy classes of a round's drafts: Markov chains on the target's track and off it.

    While its predecessors are accepted, a token of class c is accepted with a probability that its class, and its
    place where that is told, decide; independently of everything else. A rejection leaves the track for good.

    Args:
        initial: [C] distribution of the first token's class.
        transition: [C, C] distribution of the next token's class while all is accepted, by row; or [P, C, C] from
            place 0, 1, ... on, the last for all behind it.
        acceptance: [C] 0..1; or [P, C] by place, the last for all behind it.
        off_transition: as `transition`, behind a rejection; the same if not given.

    Raises:
        ValueError: shapes disagree, a row is not a distribution, or an acceptance is outside 0..1.
    """

    initial: Floats
    transition: Floats
    acceptance: Floats
    off_transition: Floats | None = None

    def __post_init__(self):
        acceptance = np.asarray(self.acceptance, np.float64)
        if acceptance.ndim not in (1, 2) or not np.all((acceptance >= 0.0) & (acceptance <= 1.0)):
            raise ValueError(f"acceptance: [C] or [P, C] numbers in 0..1, got {acceptance}")
        classes = acceptance.shape[-1]
        object.__setattr__(self, "acceptance", acceptance)
        object.__setattr__(self, "initial", distribution("initial", self.initial, (classes,)))
        for name in ("transition", "off_transition"):
            given = self.transition if getattr(self, name) is None else getattr(self, name)
            places = np.shape(given)[:-2]
            object.__setattr__(self, name, distribution(name, given, (*places, classes, classes)))

    @property
    def classes(self) -> int:
        """C."""
        return self.acceptance.shape[-1]

    def accepts(self, place: int) -> Floats:
        """[C] acceptance of the token at a place, 0 the first, by its class."""
        return self.acceptance if self.acceptance.ndim == 1 else self.acceptance[min(place, len(self.acceptance) - 1)]

    def moves(self, place: int) -> tuple[Floats, Floats]:
        """[C, C] twice: chances of the class behind a place, on the track and off it."""

        def at(table: Floats) -> Floats:
            return table if table.ndim == 2 else table[min(place, len(table) - 1)]

        assert self.off_transition is not None
        return at(self.transition), at(self.off_transition)

    def survival(self, max_draft_length: int) -> Floats:
        """Chance that the first i drafts are accepted, for i = 0..G.

        Args:
            max_draft_length: G.

        Returns:
            [G + 1], 1 at first.
        """
        chances = [1.0]
        alive = self.initial
        for place in range(max_draft_length):
            alive = alive * self.accepts(place)
            chances.append(alive.sum())
            alive = alive @ self.moves(place)[0]
        return np.asarray(chances)

    def accepted_lengths(self, max_draft_length: int) -> Floats:
        """Distribution of the number of accepted tokens of G drafts.

        Args:
            max_draft_length: G.

        Returns:
            [G + 1] probabilities of 0..G.
        """
        return -np.diff(self.survival(max_draft_length), append=0.0)


def distribution(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Check probabilities along the last axis and take out their rounding.

    Args:
        name: for the message.
        value: non-negative numbers that sum to 1.
        shape: what is expected.

    Returns:
        The same, summing to 1 in float64.

    Raises:
        ValueError: it is not that.
    """
    value = np.asarray(value, np.float64)
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape}, expected {shape}")
    total = value.sum(axis=-1, keepdims=True)
    if not (np.all(value >= 0.0) and np.all(np.abs(total - 1.0) <= TOTAL_TOLERANCE)):
        raise ValueError(f"{name}: not a distribution along its last axis, sums {total.ravel()}")
    return value / total


def fit(
    entropy: ArrayLike,
    chance: ArrayLike,
    edges: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    by_place: bool = False,
) -> EntropyModel:
    """The model of rollouts that went on to G tokens whether or not a token would have been rejected.

    Every token counts on the track by the chance that its predecessors were accepted, off it by the rest. By place,
    the chance that the first i drafts are accepted is that of the rollouts, exactly; without, acceptance that rises
    along a streak makes the model promise more of its first tokens than they hold: compare `EntropyModel.survival`.

    A class that is never met where it is asked for takes the mean of all tokens there, and is left as all tokens are.

    Args:
        entropy: [M, G] nats of each drafted token.
        chance: [M, G] its acceptance probability, or whether it was accepted (0 or 1).
        edges: [C - 1] increasing nats; an entropy equal to an edge is of the upper class.
        weight: [M] how often each rollout counts; once if not given.
        by_place: whether acceptance and transitions are told by place.

    Returns:
        The model, C classes.

    Raises:
        ValueError: shapes disagree, edges do not increase, or a number is out of range.
    """
    entropy, chance, edges = (np.asarray(x, np.float64) for x in (entropy, chance, edges))
    if entropy.ndim != 2 or chance.shape != entropy.shape or not len(entropy):
        raise ValueError(f"entropy and chance: [M, G] both, got {entropy.shape} and {chance.shape}")
    if edges.ndim != 1 or np.any(np.diff(edges) <= 0.0):
        raise ValueError(f"edges must increase, got {edges}")
    if not np.isfinite(entropy).all() or not np.all((chance >= 0.0) & (chance <= 1.0)):
        raise ValueError("entropy must be finite and chance lie in 0..1")
    count = np.ones(len(entropy)) if weight is None else np.asarray(weight, np.float64)
    if count.shape != entropy.shape[:1] or not np.all(count >= 0.0) or not count.any():
        raise ValueError(f"weight: [M] numbers from 0 on, some over it, got shape {count.shape}")
    classes, kind = len(edges) + 1, np.digitize(entropy, edges)
    alive = count[:, None] * np.cumprod(np.pad(chance, ((0, 0), (1, 0)), constant_values=1.0), axis=1)
    on, off = alive[:, :-1], count[:, None] - alive[:, :-1]
    places = [slice(place, place + 1) for place in range(entropy.shape[1])] if by_place else [slice(None)]
    accepted = [_mean_of_class(kind[:, at], chance[:, at], on[:, at], classes) for at in places]
    steps = places[:-1] if by_place else [slice(0, -1)]
    behind = [slice(at.start + 1, at.stop + 1) for at in steps] if by_place else [slice(1, None)]
    moves = [
        [_moves(kind[:, a], kind[:, b], mass[:, b], classes) for a, b in zip(steps, behind, strict=True)]
        for mass in (on, off)
    ]
    shaped = np.stack if by_place else (lambda tables: tables[0])
    if entropy.shape[1] == 1:
        moves = [[np.eye(classes)]] * 2
    return EntropyModel(
        initial=np.bincount(kind[:, 0], weights=count, minlength=classes) / count.sum(),
        transition=shaped(moves[0]),
        acceptance=np.clip(shaped(accepted), 0.0, 1.0),
        off_transition=shaped(moves[1]),
    )


def _mean_of_class(kind: NDArray[np.intp], value: Floats, weight: Floats, classes: int) -> Floats:
    """[C] mean by class; of all tokens where a class has no weight."""
    total, whole = (
        np.bincount(kind.ravel(), weights=x.ravel(), minlength=classes).astype(np.float64)
        for x in (weight * value, weight)
    )
    return _shares(total, whole, total.sum() / whole.sum() if whole.any() else 0.0)


def _moves(before: NDArray[np.intp], behind: NDArray[np.intp], weight: Floats, classes: int) -> Floats:
    """[C, C] shares of classes behind each; those of all tokens where a class has no weight."""
    pairs = (before * classes + behind).ravel()
    counted = np.bincount(pairs, weights=weight.ravel(), minlength=classes * classes).astype(np.float64)
    moves = counted.reshape(classes, classes)
    every = moves.sum(axis=0)
    every = every / every.sum() if every.any() else np.full(classes, 1.0 / classes)
    return _shares(moves, moves.sum(axis=1, keepdims=True), every)


def _shares(part: Floats, whole: Floats, otherwise: Floats | float) -> Floats:
    return np.where(whole > 0.0, part / np.where(whole > 0.0, whole, 1.0), otherwise)
