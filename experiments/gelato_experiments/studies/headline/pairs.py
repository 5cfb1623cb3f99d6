"""Pairs that we do not have: the reported alpha(H) = exp(-0.35 H) at a wanted mean acceptance."""

import dataclasses

import jax
import numpy as np

from gelato_experiments.oracles import EntropyModel
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax.control.calibration import PERSISTENCE, REPORTED_DECAY
from gelato_jax.simulation import Recording
from gelato_jax.types import Calibration

_STEPS = 20  # of a fixed-point iteration that gains a digit with each


def pair_of(like: Recording, acceptance: float, seed: int) -> Recording:
    """A synthetic pair in the shape of a recording, so that its programs serve it too.

    Entropies are exponential, of the mean that gives the acceptance under the reported curve, in as many classes as
    the recording's calibration has; a token keeps its class with the chance `PERSISTENCE`, else it is drafted
    afresh (assumed). All exits are alike, and q's support is the recording's mean.

    Args:
        like: whose shapes and sizes hold.
        acceptance: mean over tokens, (0, 1).
        seed: of the draws.
    """
    texts, positions, exits, drafts = like.rollouts.entropy.shape
    plain = synthetic_recording(
        entropy_model(acceptance, like.calibration.next_acceptance.shape[0]),
        texts=texts,
        positions=positions,
        max_draft_length=drafts,
        vocab_size=like.vocab_size,
        seed=seed,
    )
    repeated = lambda leaf: np.repeat(leaf, exits, axis=2) if leaf.ndim > 2 else leaf  # noqa: E731
    rollouts = jax.tree.map(repeated, plain.rollouts)
    support = np.full_like(rollouts.support, max(1, round(float(_mean_support(like)))))
    rollouts = dataclasses.replace(rollouts, support=support, overlap=rollouts.chance)
    return dataclasses.replace(
        plain,
        rollouts=rollouts,
        calibration=_exits(plain.calibration, exits),
        work=like.work,
        draft_vocab_size=like.draft_vocab_size,
        further=like.further,
        categories=like.categories,
    )


def entropy_model(acceptance: float, classes: int) -> EntropyModel:
    """Entropy classes of equal mass of an exponential distribution, whose mean acceptance is as wanted."""
    quantiles = (np.arange(classes) + 0.5) / classes
    mean_entropy = (1.0 / acceptance - 1.0) / REPORTED_DECAY
    chances_at = lambda mean: np.exp(REPORTED_DECAY * mean * np.log1p(-quantiles))  # noqa: E731
    for _ in range(_STEPS):  # the mean over classes is not quite that of the distribution: nudge until it is
        mean_entropy *= np.log(acceptance) / np.log(chances_at(mean_entropy).mean())
    chances = chances_at(mean_entropy)
    initial = np.full(classes, 1.0 / classes)
    transition = PERSISTENCE * np.eye(classes) + (1.0 - PERSISTENCE) * initial
    return EntropyModel(initial=initial, transition=transition, acceptance=chances)


def _mean_support(like: Recording) -> float:
    first = like.rollouts.support[:, :, -1, 0]
    there = np.arange(first.shape[1]) < like.rollouts.positions[:, None]
    return float(first[there].mean())


def _exits(calibration: Calibration, exits: int) -> Calibration:
    """The calibration of one exit, for several that are alike."""
    deeper = np.repeat(np.repeat(calibration.deeper_acceptance, exits, axis=0), exits, axis=2)
    return dataclasses.replace(
        calibration,
        scale=np.repeat(calibration.scale, exits),
        decay=np.repeat(calibration.decay, exits),
        class_acceptance=np.repeat(calibration.class_acceptance, exits, axis=0),
        deeper_acceptance=deeper,
    )
