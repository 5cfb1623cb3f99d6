"""A Markov model of the entropies of a round's drafts, and its estimate from rollouts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

TOTAL_TOLERANCE = 1e-6  # of a distribution given by the caller


@dataclass(frozen=True, eq=False)
class EntropyModel:
    """Entropy classes of a round's drafts: a Markov chain; a token's acceptance depends on its class alone.

    Given that its predecessors were accepted, a token of class c is accepted with probability
    acceptance[c], independently of everything else; the chain goes on whether they were or not.

    Args:
        initial: [C] distribution of the first token's class.
        transition: [C, C] distribution of the next token's class, by row.
        acceptance: [C] 0..1.

    Raises:
        ValueError: shapes disagree, a row is not a distribution, or an acceptance is outside 0..1.
    """

    initial: Floats
    transition: Floats
    acceptance: Floats

    def __post_init__(self):
        acceptance = np.asarray(self.acceptance, np.float64)
        if acceptance.ndim != 1 or not np.all((acceptance >= 0.0) & (acceptance <= 1.0)):
            raise ValueError(f"acceptance: [C] numbers in 0..1, got {acceptance}")
        classes = len(acceptance)
        object.__setattr__(self, "acceptance", acceptance)
        object.__setattr__(self, "initial", distribution("initial", self.initial, (classes,)))
        object.__setattr__(self, "transition", distribution("transition", self.transition, (classes, classes)))

    def survival(self, max_draft_length: int) -> Floats:
        """Chance that the first i drafts are accepted, for i = 0..G.

        Args:
            max_draft_length: G.

        Returns:
            [G + 1], 1 at first.
        """
        chances = [1.0]
        alive = self.initial
        for _ in range(max_draft_length):
            alive = alive * self.acceptance
            chances.append(alive.sum())
            alive = alive @ self.transition
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


def fit(entropy: ArrayLike, chance: ArrayLike, edges: ArrayLike, *, alive: ArrayLike | None = None) -> EntropyModel:
    """The model of rollouts that went on to G tokens whether or not a token would have been rejected.

    Acceptance counts each token by the chance that its predecessors were accepted, as the model defines it.
    Initial distribution and transitions count every step alike, also those after a rejection: the device cannot see
    a rejection while it drafts, so these are the entropies that it meets. Where entropies after a rejection
    differ from the others, no chain on classes alone describes both, and E[A_i] of the model departs from
    the rollouts': compare `EntropyModel.survival` with them.

    A class without an accepted predecessor takes the mean chance of all its tokens, one never met the
    overall mean; a class that is never left takes the overall distribution of classes as its transitions.

    Args:
        entropy: [M, G] nats of each drafted token; nan after the end of a rollout.
        chance: [M, G] its acceptance probability, or whether it was accepted (0 or 1).
        edges: [C - 1] increasing nats; an entropy equal to an edge is of the upper class.
        alive: [M, G] chance, or whether, the predecessors were accepted; by default the product of their
            `chance`.

    Returns:
        The model, C classes.

    Raises:
        ValueError: shapes disagree, edges do not increase, chances are outside 0..1, or there is no token.
    """
    entropy, chance, edges = (np.asarray(x, np.float64) for x in (entropy, chance, edges))
    if entropy.ndim != 2 or chance.shape != entropy.shape:
        raise ValueError(f"entropy and chance: [M, G] both, got {entropy.shape} and {chance.shape}")
    if edges.ndim != 1 or np.any(np.diff(edges) <= 0.0):
        raise ValueError(f"edges must increase, got {edges}")
    met = ~np.isnan(entropy)
    chance = np.where(met, chance, 0.0)
    if not met[:, 0].any() or not np.all((chance >= 0.0) & (chance <= 1.0)):
        raise ValueError("chance must lie in 0..1 wherever there is a token, and some rollout must have one")
    if alive is None:
        alive = np.cumprod(np.pad(chance[:, :-1], ((0, 0), (1, 0)), constant_values=1.0), axis=1)
    alive = np.broadcast_to(np.asarray(alive, np.float64), entropy.shape)

    classes = len(edges) + 1
    kind = np.digitize(entropy, edges)
    pairs = met[:, :-1] & met[:, 1:]
    moves = np.zeros((classes, classes))
    np.add.at(moves, (kind[:, :-1][pairs], kind[:, 1:][pairs]), 1.0)
    first = np.bincount(kind[met[:, 0], 0], minlength=classes).astype(np.float64)
    every = np.bincount(kind[met], minlength=classes) / met.sum()
    return EntropyModel(
        initial=first / first.sum(),
        transition=_shares(moves, moves.sum(axis=1, keepdims=True), every),
        acceptance=_acceptance(kind[met], chance[met], alive[met], classes),
    )


def _acceptance(kind: NDArray[np.intp], chance: Floats, alive: Floats, classes: int) -> Floats:
    """[C] mean chance by class, weighted by survival where there is any."""
    plain = _class_mean(kind, chance, np.ones_like(chance), classes, np.full(classes, chance.mean()))
    return np.clip(_class_mean(kind, chance, alive, classes, plain), 0.0, 1.0)


def _class_mean(kind: NDArray[np.intp], value: Floats, weight: Floats, classes: int, otherwise: Floats) -> Floats:
    total, whole = (
        np.bincount(kind, weights=x, minlength=classes).astype(np.float64) for x in (weight * value, weight)
    )
    return _shares(total, whole, otherwise)


def _shares(part: Floats, whole: Floats, otherwise: Floats) -> Floats:
    return np.where(whole > 0.0, part / np.where(whole > 0.0, whole, 1.0), otherwise)
