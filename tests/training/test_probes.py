"""Probes: the closed form is NumPy's, and they predict the entropy that the head shows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.training.batches import Batches
from gelato_jax.training.distill import exit_states
from gelato_jax.training.probes import fit_probes
from gelato_jax.training.warm_start import DraftShape, warm_start

VOCABULARY = np.arange(61)


@pytest.fixture(scope="module")
def batches(corpus):
    return Batches(corpus[0], np.array([5, 6, 7]), VOCABULARY, tokens_per_batch=1024)


def seen(model, batches):
    """States, entropies and weights at the first exit of every learned position of an epoch."""
    decoder, parts = model.bind(), []
    stream = batches.shuffled(seed=0)
    for _ in range(batches.batches_per_epoch(seed=0)):
        batch = next(stream)
        state = exit_states(decoder, jnp.asarray(batch.tokens), jnp.ones(batch.tokens.shape, jnp.int32))[0]
        normed = np.take_along_axis(np.asarray(state, np.float64), batch.learned[..., None], axis=1)
        logits = np.asarray(decoder.head_logits(jnp.asarray(normed, jnp.float32)), np.float64)
        log_q = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        entropy = -(np.exp(log_q) * log_q).sum(axis=-1)
        parts.append((normed.reshape(-1, normed.shape[-1]), entropy.reshape(-1), batch.weight.reshape(-1)))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def test_a_probe_is_the_least_squares_fit(target, batches):
    draft = warm_start(target, DraftShape(layers=(0, 1, 3), exits=(1, 3), vocabulary=61), VOCABULARY)
    probed = fit_probes(draft, batches)
    states, entropy, weight = seen(draft, batches)
    features = np.concatenate([states, np.ones((len(states), 1))], axis=1) * np.sqrt(weight)[:, None]
    expected = np.linalg.lstsq(features, entropy * np.sqrt(weight), rcond=None)[0]
    values = np.append(states, np.ones((len(states), 1)), axis=1) @ expected
    said = np.asarray(probed.bind().exit_probes[0](jnp.asarray(states, jnp.float32)))
    np.testing.assert_allclose(said, np.maximum(values, 0.0), atol=0.02)  # the ridge moves it a little
    error = np.average(np.square(said - entropy), weights=weight)
    spread = np.average(np.square(entropy - np.average(entropy, weights=weight)), weights=weight)
    assert error < 0.9 * spread
    unchanged = [path for path in draft.params if not path.startswith("exit_probes")]
    assert all(probed.params[path] is draft.params[path] for path in unchanged)


def test_a_draft_without_early_exits_has_nothing_to_fit(target, batches):
    draft = warm_start(target, DraftShape(layers=(0, 3), exits=(2,), vocabulary=61), VOCABULARY)
    assert fit_probes(draft, batches) is draft
    assert not dataclasses.asdict(draft.config)["exit_probes"]
