"""Verification against float64 NumPy, every implementation and case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.case_logits import masked, normal
from gelato_kernels.conformance import pairs
from gelato_kernels.dispatch import runnable
from gelato_kernels.verification.api import VERIFY_BACKENDS
from gelato_kernels.verification.cases import CASES, pair, window

IMPLEMENTATIONS = runnable(VERIFY_BACKENDS)
PLAIN = ("xla", "reference")  # for thousands of rows; an interpreter takes minutes
ROUNDING = 4e-7  # a few units in the last place of a float32 probability

verify = jax.jit(gk.speculative_verify, static_argnames="implementation")
accept = jax.jit(gk.accept, static_argnames="implementation")
sample_residual = jax.jit(gk.sample_residual, static_argnames="implementation")


def draft_distributions(inputs, row, length, vocab, softmax64):
    """q of a row's draft tokens in float64, [length, vocab], of whichever form the case has."""
    if inputs.get("draft_logits") is not None:
        return softmax64(inputs["draft_logits"][row, :length])
    if inputs.get("draft_probs") is not None:
        return np.asarray(inputs["draft_probs"][row, :length], np.float64)
    q = np.zeros((length, vocab))
    if inputs.get("draft_support") is None:
        q[np.arange(length), inputs["draft_tokens"][row, :length]] = 1.0
    else:
        ids, probs = (np.asarray(part[row, :length]) for part in inputs["draft_support"])
        np.add.at(q, (np.arange(length)[:, None], ids), probs)
    return q


@pytest.mark.parametrize(("implementation", "case"), pairs(VERIFY_BACKENDS, CASES, "target_logits"))
def test_matches_float64(implementation, case, softmax64, assert_drawn):
    inputs = CASES[case]()
    result = verify(**inputs, implementation=implementation)
    accept_u, token_u = (np.asarray(u, np.float64) for u in inputs["uniforms"])
    for row, length in enumerate(np.asarray(inputs["draft_length"])):
        tokens = np.asarray(inputs["draft_tokens"][row])
        p = softmax64(inputs["target_logits"][row, : length + 1])
        q = draft_distributions(inputs, row, length, p.shape[1], softmax64)
        stop = 0
        while stop < length and accept_u[row, stop] * q[stop, tokens[stop]] < p[stop, tokens[stop]]:
            stop += 1
        assert int(result.num_accepted[row]) == stop
        assert bool(result.is_bonus[row]) == (stop == length)
        q_stop = q[stop] if stop < length else np.zeros(p.shape[1])
        residual = np.maximum(p[stop] - q_stop, 0)
        mass = residual.sum() if stop < length else 1.0
        np.testing.assert_allclose(result.residual_mass[row], mass, rtol=1e-5, atol=1e-6)
        weights = residual if mass > 0 else p[stop]
        assert_drawn(weights, token_u[row], int(result.next_token[row]), ROUNDING * (p[stop] + q_stop))


def test_cases_reach_every_outcome():
    results = [verify(**make(), implementation="xla") for make in CASES.values()]
    lengths = [make()["draft_length"] for make in CASES.values()]
    accepted = np.concatenate([result.num_accepted for result in results]).tolist()
    stops = set(zip(accepted, np.concatenate(lengths).tolist(), strict=True))
    assert any(0 < n < g for n, g in stops)
    assert any(n == 0 < g for n, g in stops)
    assert any(n == g > 0 for n, g in stops)
    assert any(g == 0 for _, g in stops)


HALVED = ("ragged", "masked", "equal_distributions", "impossible_draft", "no_draft")
HALVES = [(n, case) for n in IMPLEMENTATIONS for case in HALVED if not n.startswith("mosaic") or case == "ragged"]


@pytest.mark.parametrize(("implementation", "case"), HALVES)
def test_halves_compose_to_the_whole(implementation, case):
    inputs = CASES[case]()
    whole = verify(**inputs, implementation=implementation)
    target, draft, tokens = inputs["target_logits"], inputs["draft_logits"], inputs["draft_tokens"]
    log_q = jnp.take_along_axis(jax.nn.log_softmax(draft), tokens[..., None], -1)[..., 0]
    noise = inputs["uniforms"]
    for rows in {tokens.shape[1], tokens.shape[1] + 1}:
        stop = accept(
            target[:, :rows], tokens, log_q, inputs["draft_length"], noise.accept, implementation=implementation
        )
        np.testing.assert_array_equal(stop, whole.num_accepted)
    at_stop = jnp.take_along_axis(target, stop[:, None, None], 1)[:, 0]
    padded = jnp.concatenate([draft, jnp.zeros_like(target[:, :1])], axis=1)
    draft_at_stop = jnp.take_along_axis(padded, stop[:, None, None], 1)[:, 0]
    drawn = sample_residual(at_stop, draft_at_stop, whole.is_bonus, noise.token, implementation=implementation)
    np.testing.assert_array_equal(drawn.token, whole.next_token)
    np.testing.assert_allclose(drawn.mass, whole.residual_mass, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", PLAIN)
def test_an_impossible_token_is_rejected_at_any_draft_probability(implementation):
    target = jnp.zeros((1, 1, 4)).at[0, 0, 2].set(-jnp.inf)
    token, u = jnp.array([[2]]), jnp.full((1, 1), 2.0**-24)
    for log_q in (-jnp.inf, -200.0, 0.0):
        n = accept(target, token, jnp.full((1, 1), log_q), jnp.array([1]), u, implementation=implementation)
        assert int(n[0]) == 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_empty_residual_draws_from_the_target(implementation, softmax64, assert_drawn):
    logits, u = masked(3, 3, 700), gk.uniforms(jax.random.key(4), (3, 2))
    drawn = sample_residual(logits, logits, jnp.zeros(3, bool), u, implementation=implementation)
    np.testing.assert_array_equal(drawn.mass, 0.0)
    for p, row_u, token in zip(softmax64(logits), np.asarray(u), drawn.token, strict=True):
        assert_drawn(p, row_u, int(token))


@pytest.mark.parametrize("implementation", PLAIN)
def test_never_draws_a_token_without_residual(implementation, softmax64):
    target, draft = masked(5, 1, 600, kept=0.1), normal(6, 1, 600)
    u = gk.uniforms(jax.random.key(7), (5000, 2))
    draw = jax.vmap(
        lambda u: gk.sample_residual(target, draft, jnp.array([False]), u[None], implementation=implementation).token[0]
    )
    drawn = np.unique(jax.jit(draw)(u))
    assert np.all(softmax64(target)[0, drawn] > softmax64(draft)[0, drawn])
    assert len(drawn) > 5


def test_residual_mass_is_the_rejection_probability(softmax64):
    # 100k draft tokens; 5 standard deviations: false alarm 6e-7.
    target, draft = pair(8, 1, 1, 50)
    p, q = softmax64(target)[0, 0], softmax64(draft)[0, 0]
    mass = float(sample_residual(target[:, 0], draft[:, 0], jnp.array([False]), jnp.full((1, 2), 0.5)).mass[0])
    np.testing.assert_allclose(mass, 1 - np.minimum(p, q).sum(), atol=1e-6)
    n = 100_000
    rows = window(jnp.broadcast_to(target, (n, 2, 50)), jnp.broadcast_to(draft, (n, 1, 50)), seed=9)
    rejected = 1 - np.mean(verify(**rows).num_accepted)
    assert abs(rejected - mass) < 5 * np.sqrt(mass * (1 - mass) / n)


def test_match_is_the_equal_prefix():
    target = jnp.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 9, 3, 4], [9, 2, 3, 4], [1, 2, 3, 4]])
    draft = jnp.broadcast_to(jnp.array([1, 2, 3]), (5, 3))
    result = gk.match(target, draft, jnp.array([3, 2, 3, 3, 0]))
    np.testing.assert_array_equal(result.num_accepted, [3, 2, 1, 0, 0])
    np.testing.assert_array_equal(result.next_token, [4, 3, 9, 9, 1])
    np.testing.assert_array_equal(result.is_bonus, [True, True, False, False, True])
    np.testing.assert_array_equal(result.residual_mass, 1.0)


def test_match_without_a_draft_takes_the_target():
    result = gk.match(jnp.array([[7]]), jnp.zeros((1, 0), jnp.int32), jnp.array([0]))
    assert (int(result.num_accepted[0]), int(result.next_token[0]), bool(result.is_bonus[0])) == (0, 7, True)
