"""`sample`, the uniforms and the search by inverse CDF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.blocks import pick
from gelato_kernels.case_logits import masked, normal
from gelato_kernels.conformance import pairs
from gelato_kernels.sampling.api import BACKENDS
from gelato_kernels.sampling.cases import CASES

PLAIN = ("xla", "reference")  # for tens of thousands of rows; an interpreter takes minutes

sample = jax.jit(gk.sample, static_argnames="implementation")


@pytest.mark.parametrize(("implementation", "case"), pairs(BACKENDS, CASES, "logits"))
def test_is_the_inverse_cdf(implementation, case, softmax64, assert_drawn):
    inputs = CASES[case]()
    tokens = sample(**inputs, implementation=implementation)
    assert tokens.dtype == jnp.int32
    for p, u, token in zip(softmax64(inputs["logits"]), np.asarray(inputs["uniforms"]), tokens, strict=True):
        assert_drawn(p, u, int(token))


@pytest.mark.parametrize("implementation", PLAIN)
def test_never_draws_a_token_of_probability_zero(implementation):
    logits = masked(1, 700, kept=0.02)
    uniforms = gk.uniforms(jax.random.key(2), (20_000, 2))
    tokens = jax.jit(jax.vmap(lambda u: gk.sample(logits, u, implementation=implementation)))(uniforms)
    drawn = np.unique(tokens)
    assert np.all(np.isfinite(np.asarray(logits)[drawn]))
    assert len(drawn) > 5


def test_has_the_softmax_distribution(softmax64):
    # 200k draws over 300 tokens in two blocks; z > 5 of chi-square happens by chance 5e-6 of the time.
    logits = jnp.asarray(normal(3, 300)) / 3
    tokens = jax.jit(lambda u: gk.sample(jnp.broadcast_to(logits, (len(u), 300)), u))(
        gk.uniforms(jax.random.key(4), (200_000, 2))
    )
    expected = 200_000 * softmax64(logits)
    chi2 = np.sum((np.bincount(tokens, minlength=300) - expected) ** 2 / expected)
    assert (chi2 - 299) / np.sqrt(2 * 299) < 5


def test_rows_do_not_depend_on_their_batch():
    logits, u = normal(5, 4, 5003), gk.uniforms(jax.random.key(6), (4, 2))
    together = sample(logits, u)
    np.testing.assert_array_equal(together, jnp.stack([sample(*row) for row in zip(logits, u, strict=True)]))
    np.testing.assert_array_equal(together, jax.vmap(sample)(logits, u))


@pytest.mark.parametrize(("u", "index"), [(2.0**-24, 2), (0.4999, 2), (0.5001, 5), (1 - 2.0**-24, 5)])
def test_pick_skips_weights_of_zero(u, index):
    weights = jnp.array([0, 0, 1.0, 0, 0, 1.0, 0, 0])
    assert int(pick(weights, jnp.float32(u))) == index


def test_uniforms_follow_the_convention():
    u = np.asarray(gk.uniforms(jax.random.key(7), (100_000,)), np.float64)
    bits = np.asarray(jax.random.bits(jax.random.key(7), (100_000,), np.uint32))
    np.testing.assert_array_equal(u, ((bits >> 9) + 0.5) * 2.0**-23)
    assert gk.uniforms(jax.random.key(7), (2,)).dtype == jnp.float32


def test_the_extreme_uniforms_are_neither_0_nor_1(monkeypatch):
    ends = jnp.array([0, 2**32 - 1], jnp.uint32)
    monkeypatch.setattr(jax.random, "bits", lambda *_: ends)
    np.testing.assert_array_equal(gk.uniforms(jax.random.key(0), (2,)), np.float32([2.0**-24, 1 - 2.0**-24]))
    assert np.all(np.isfinite(gk.gumbel_noise(jax.random.key(0), (2,))))
