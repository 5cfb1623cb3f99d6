"""A recording drawn from a Markov model of entropies, where the best policy is known: what oracles are held against.

Every position is a round of its own: its first token's class is drawn afresh, whatever went before.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from gelato_experiments.oracles import EntropyModel
from gelato_jax.control import default_calibration
from gelato_jax.control.calibration import REPORTED_DECAY
from gelato_jax.simulation import Recording, Rollouts
from gelato_jax.types import KNOWN_POSITIONS, Calibration


def synthetic_recording(
    model: EntropyModel,
    *,
    texts: int = 64,
    positions: int = 256,
    max_draft_length: int = 12,
    vocab_size: int = 49152,
    seed: int = 0,
) -> Recording:
    """Draw rollouts from a model, with the calibration that is true of them.

    A class's entropy is the one at which the reported curve exp(-0.35 H) gives the class's acceptance.

    Where classes move otherwise behind a rejection, a token's `chance` is that of being accepted given all classes of
    its rollout: acceptances have the model's distribution, jointly with what a device sees.

    Args:
        model: classes of entropy, of descending acceptance in (0, 1], alike at every place.
        texts: R.
        positions: N of each.
        max_draft_length: G.
        vocab_size: target ids, and entries of q.
        seed: of the draws.

    Raises:
        ValueError: an acceptance is 0 or does not descend, or the model tells places apart.
    """
    acceptance = np.asarray(model.acceptance, np.float64)
    if acceptance.ndim != 1 or model.transition.ndim != 2:
        raise ValueError("the model tells places apart, which no calibration does")
    if (acceptance <= 0).any() or (np.diff(acceptance) >= 0).any():
        raise ValueError(f"acceptance {acceptance.tolist()} must descend and stay over 0: classes ascend in entropy")
    shape = (texts, positions, 1, max_draft_length)
    kinds = _draw_classes(model, (texts, positions, max_draft_length), np.random.default_rng(seed))[:, :, None]
    chance = _chances(model, kinds)
    levels = -np.log(acceptance) / REPORTED_DECAY
    count = np.full(texts, positions, np.int32)
    leaves: dict[str, Any] = dict(
        entropy=levels[kinds].astype(np.float32),
        max_probability=np.exp(-levels[kinds]).astype(np.float32),
        chance=chance,
        q=np.ones(shape, np.float32),
        p=chance,
        overlap=np.zeros(shape, np.float32),
        support=np.ones(shape, np.int32),
        ends=np.full(shape[:3], max_draft_length, np.int32),
        accepted=np.zeros(shape[:3], np.int32),
        positions=count,
        limit=count + max_draft_length,  # no text ends early
        prompt_tokens=np.zeros(texts, np.int32),  # rounds alone
    )
    return Recording(
        rollouts=Rollouts(**leaves),
        calibration=_calibration(model, levels),
        work=np.ones(1, np.float32),
        vocab_size=vocab_size,
        draft_vocab_size=vocab_size,
        further=False,
        categories=("synthetic",) * texts,
        about={"pair": "synthetic", "temperature": 0.0, "seed": seed},
    )


def _draw_classes(model: EntropyModel, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Classes along the last axis: on the track while all is accepted, then off it."""
    tables = [np.cumsum(table, axis=1) for table in model.moves(0)]
    last = model.classes - 1
    uniform, accepted = random.random(shape), random.random(shape)
    kinds, on = np.empty(shape, np.int64), np.ones(shape[:-1], bool)
    kinds[..., 0] = np.minimum((uniform[..., :1] >= np.cumsum(model.initial)).sum(axis=-1), last)
    for index in range(1, shape[-1]):
        before = kinds[..., index - 1]
        on &= accepted[..., index - 1] < model.acceptance[before]
        rows = np.where(on[..., None], tables[0][before], tables[1][before])
        kinds[..., index] = np.minimum((uniform[..., index, None] >= rows).sum(axis=-1), last)
    return kinds


def _chances(model: EntropyModel, kinds: np.ndarray) -> np.ndarray:
    """Chance that each token is accepted if those before it are, given all classes of its rollout, `[..., G]` float32.

    From the end: how likely the classes to come are if all is accepted so far, against after a rejection.
    """
    on, off = model.moves(0)
    size = kinds.shape[-1]
    good, bad = (
        np.ones(kinds.shape[:-1]),
        np.ones(kinds.shape[:-1]),
    )  # of the classes behind a token, on the track and off
    chance = np.empty(kinds.shape, np.float32)
    for index in reversed(range(size)):
        accept = model.acceptance[kinds[..., index]]
        if index < size - 1:
            step = kinds[..., index], kinds[..., index + 1]
            good, bad = on[step] * good, off[step] * bad
        stays = accept * good
        whole = stays + (1.0 - accept) * bad
        chance[..., index] = stays / whole
        scale = np.maximum(whole, bad)
        good, bad = whole / scale, bad / scale
    return chance


def _streak(model: EntropyModel) -> np.ndarray:
    """Acceptance by place in a round, exactly: by the classes of drafts before which all were accepted."""
    acceptance, transition = np.asarray(model.acceptance), np.asarray(model.transition)
    kinds, streak = np.asarray(model.initial), np.empty(KNOWN_POSITIONS, np.float32)
    for place in range(KNOWN_POSITIONS):
        streak[place] = kinds @ acceptance
        kinds = (kinds * acceptance) @ transition
        kinds = kinds / max(kinds.sum(), 1e-30)
    return streak


def _calibration(model: EntropyModel, levels: np.ndarray) -> Calibration:
    acceptance, initial = np.asarray(model.acceptance), np.asarray(model.initial)
    mean = float(initial @ acceptance)
    calibration = default_calibration(1, min(max(mean, 1e-3), 1 - 1e-3))
    calibration = jax.tree.map(np.asarray, calibration)
    changed: dict[str, Any] = dict(
        mean_acceptance=np.float32(mean),
        class_edges=((levels[1:] + levels[:-1]) / 2).astype(np.float32),
        class_acceptance=acceptance[None].astype(np.float32),
        next_acceptance=(np.asarray(model.transition) @ acceptance).astype(np.float32),
        deeper_acceptance=acceptance[None, :, None].astype(np.float32),
        conditional_acceptance=_streak(model),
    )
    return dataclasses.replace(calibration, **changed)
