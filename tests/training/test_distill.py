"""The loss: what it is, where it is zero, and that exits are trained as they are used."""

from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelato_jax.models import allocate, write
from gelato_jax.training import distill
from gelato_jax.training.batches import Batch, Batches
from gelato_jax.training.distill import TrainSettings, TrainState, exit_states, loss, score, split_trained
from gelato_jax.training.warm_start import DraftShape, warm_start

VOCABULARY = np.arange(61)


@pytest.fixture(scope="module")
def draft(target):
    return warm_start(target, DraftShape(layers=(0, 1, 2, 3), exits=(2, 4), vocabulary=61), VOCABULARY)


@pytest.fixture(scope="module")
def batch(corpus):
    batches = Batches(corpus[0], np.array([5, 6, 7]), VOCABULARY, tokens_per_batch=512)
    return jax.tree.map(jnp.asarray, next(batches.shuffled(seed=0)))


def one_position(p: np.ndarray, kept: int, rows: int) -> Batch:
    """A batch of a single position with the target's distribution `p [V]`; the head has the first `rows` ids."""
    order = np.argsort(-p, kind="stable")[:kept]
    ones = np.ones((1, 1))
    return Batch(
        tokens=np.zeros((1, 1), np.int32),
        learned=np.zeros((1, 1), np.int32),
        weight=ones,
        greedy=ones > 0,
        top_index=np.minimum(order, rows)[None, None].astype(np.int32),
        top_log_prob=np.log(p[order])[None, None].astype(np.float32),
    )


distributions = st.integers(0, 2**31 - 1).map(
    lambda seed: np.random.default_rng(seed).dirichlet(np.full(12, 0.7)) * 0.99 + 1e-3
)


def lumped(distribution: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The outcomes that are told apart: those named, and the rest."""
    return np.append(distribution[order], 1.0 - distribution[order].sum())


@settings(max_examples=30, deadline=None)
@given(distributions, distributions)
def test_scores_are_numpys_where_the_head_has_every_token(p, q):
    p, q = p / p.sum(), q / q.sum()
    scores = score(jnp.log(q)[None, None].astype(jnp.float32), one_position(p, 5, 12))
    order = np.argsort(-p, kind="stable")[:5]
    lp, lq = lumped(p, order), lumped(q, order)
    np.testing.assert_allclose(scores.divergence[0, 0], (lp * np.log(lp / lq)).sum(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scores.acceptance[0, 0], np.minimum(lp, lq).sum(), rtol=1e-4)
    assert scores.acceptance[0, 0] >= np.minimum(p, q).sum() - 1e-5  # an upper bound of the true acceptance
    assert bool(scores.agreement[0, 0]) == (q.argmax() == p.argmax())


@settings(max_examples=30, deadline=None)
@given(distributions, st.integers(0, 11), st.floats(0.3, 3.0))
def test_the_divergence_is_zero_iff_the_distributions_are_equal(p, moved, by):
    p = p / p.sum()
    logits = np.log(p)[None, None].astype(np.float32)
    batch = one_position(p, 11, 12)
    equal = score(jnp.asarray(logits), batch)
    assert abs(float(equal.divergence[0, 0])) < 1e-5
    assert float(equal.acceptance[0, 0]) > 1 - 1e-5
    logits[0, 0, moved] += by
    assert float(score(jnp.asarray(logits), batch).divergence[0, 0]) > 1e-7


def test_a_token_that_the_head_lacks_counts_in_the_rest():
    p = np.array([0.5, 0.2, 0.2, 0.1])
    scores = score(jnp.log(jnp.array([[[0.6, 0.4]]])), one_position(p, 3, 2))
    # Ids 2 and 3 are beyond the head: what it can reach is id 0, id 1 and the rest that was not named, 0.1.
    assert float(scores.acceptance[0, 0]) == pytest.approx(0.7, abs=1e-5)
    assert bool(scores.agreement[0, 0])


@pytest.mark.parametrize("overlap_weight", [0.0, 0.5])
def test_the_gradient_is_the_slope_of_the_loss(draft, batch, overlap_weight):
    trained, fixed = split_trained(draft.params)
    options = TrainSettings(overlap_weight=overlap_weight, leaving=0.3)
    key = jax.random.key(1)
    value = jax.jit(lambda params: loss(params, fixed, batch, key, draft, options, jnp.float32)[0])
    gradient = jax.jit(jax.grad(value))(trained)
    keys = jax.random.split(jax.random.key(2), len(trained))
    noise = {
        path: jax.random.normal(k, trained[path].shape) * jnp.std(trained[path])
        for k, path in zip(keys, sorted(trained), strict=True)
    }
    step = 3e-4
    move = lambda sign: {path: trained[path] + sign * step * noise[path] for path in trained}  # noqa: E731
    slope = (float(value(move(1))) - float(value(move(-1)))) / (2 * step)
    expected = sum(float((gradient[path] * noise[path]).sum()) for path in trained)
    assert slope == pytest.approx(expected, rel=0.02, abs=3e-3)  # float32 differences; TV has kinks


def test_frozen_tokens_give_deep_layers_what_drafting_gives_them(draft):
    """Token by token, as a device drafts: a token that leaves caches `skip`'s keys and values."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 60, (1, 10)).astype(np.int32)
    leaves = np.array([[1, 0, 1, 0, 0, 1, 1, 0, 1, 1]])
    decoder = draft.bind()
    _, deep = exit_states(decoder, jnp.asarray(tokens), jnp.asarray(leaves))
    cache = allocate(draft.config, 1, 16)
    for position in range(tokens.shape[1]):
        lengths = jnp.array([position], jnp.int32)
        angles = decoder.angles(lengths, 1)
        x, fresh = decoder.run(decoder.embed_tokens(tokens[:, [position]]), angles, cache, lengths, 0, 2)
        if leaves[0, position]:
            x, rest = decoder.run(x, angles, cache, lengths, 2, 4)
        else:
            rest = decoder.skip(x, angles, 2, 4)
        cache = write(cache, (*fresh, *rest), lengths, after=x)
        np.testing.assert_allclose(deep[0, position], decoder.norm(x)[0, 0], rtol=1e-3, atol=1e-4)


def test_a_token_that_left_is_not_counted_deeper(draft, batch):
    """With every token leaving early only the early exit is trained: the deep layers get no gradient."""
    trained, fixed = split_trained(draft.params)
    options = TrainSettings(leaving=1.0)
    gradient, _ = jax.jit(
        jax.grad(lambda p: loss(p, fixed, batch, jax.random.key(0), draft, options, jnp.float32), has_aux=True)
    )(trained)
    for path, array in gradient.items():
        deep = path.startswith(("layers.2.", "layers.3.", "norm."))
        assert bool(jnp.any(array != 0)) == (not deep and not path.startswith("exit_probes")), path


def test_steps_learn_and_leave_the_embedding_alone(draft, corpus):
    batches = Batches(corpus[0], np.array([5, 6, 7]), VOCABULARY, tokens_per_batch=512)
    disturbed = {
        path: array * 0.5 if path.startswith("layers.") and array.ndim > 1 else array
        for path, array in draft.params.items()
    }
    trained, fixed = split_trained(disturbed)
    assert list(fixed) == ["embed.embedding"]
    options = TrainSettings(learning_rate=3e-3)
    optimizer = distill.make_optimizer(options, 30)
    state = TrainState(jax.tree.map(jnp.copy, trained), optimizer.init(trained), jnp.zeros((), jnp.int32))
    reports = []
    for some in islice(batches.shuffled(seed=0), 30):
        state, report = distill.train_step(
            state, fixed, some, draft, settings=options, optimizer=optimizer, dtype=jnp.dtype("float32")
        )
        reports.append(float(report["loss"]))
    assert int(state.step) == 30
    assert np.mean(reports[-5:]) < 0.8 * np.mean(reports[:3])
    assert all(bool(jnp.any(state.trained[p] != trained[p])) for p in trained if not p.startswith("exit_probes"))
