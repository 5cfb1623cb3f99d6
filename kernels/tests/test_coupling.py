"""`gumbel_argmax` and its noise."""

import jax
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.case_logits import normal
from gelato_kernels.coupling.api import BACKENDS
from gelato_kernels.coupling.cases import CASES

gumbel_argmax = jax.jit(gk.gumbel_argmax, static_argnames="implementation")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", [backend.name for backend in BACKENDS])
def test_is_the_argmax_of_the_sum(implementation, case):
    inputs = CASES[case]()
    tokens = gumbel_argmax(**inputs, implementation=implementation)
    scores = np.asarray(inputs["logits"]) + np.asarray(inputs["noise"])
    np.testing.assert_array_equal(tokens, scores.argmax(-1))
    assert np.all(np.isfinite(np.take_along_axis(scores, np.asarray(tokens)[:, None], -1)))


@pytest.mark.parametrize("implementation", [backend.name for backend in BACKENDS])
def test_a_row_with_a_nan_stays_in_the_vocabulary(implementation):
    logits = np.zeros((2, 5003), np.float32)
    logits[0], logits[1, 7] = np.nan, np.nan
    tokens = np.asarray(gumbel_argmax(logits, np.zeros_like(logits), implementation=implementation))
    assert ((tokens >= 0) & (tokens < 5003)).all()


def test_has_the_softmax_distribution(softmax64):
    # 200k draws over 6 tokens; chi-square with 5 degrees of freedom exceeds 40 by chance 1.5e-7 of the time.
    logits = normal(1, 6)
    noise = gk.gumbel_noise(jax.random.key(2), (200_000, 6))
    tokens = jax.vmap(lambda g: gumbel_argmax(logits, g))(noise)
    expected = 200_000 * softmax64(logits)
    chi2 = np.sum((np.bincount(tokens, minlength=6) - expected) ** 2 / expected)
    assert chi2 < 40
