"""`entropy` against float64 NumPy, every implementation and case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.conformance import pairs
from gelato_kernels.dispatch import runnable
from gelato_kernels.token_stats.api import BACKENDS
from gelato_kernels.token_stats.cases import CASES

entropy = jax.jit(gk.entropy, static_argnames="implementation")


@pytest.mark.parametrize(("implementation", "case"), pairs(BACKENDS, CASES, "logits"))
def test_matches_float64(implementation, case, softmax64, assert_drawn):
    inputs = CASES[case]()
    logits = inputs.pop("logits")
    stats = entropy(logits, **inputs, implementation=implementation)
    wide = np.asarray(logits, np.float64)
    p = softmax64(wide)
    plogp = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    peak = wide.max(-1)
    # 1e-6 of the largest term is float32's rounding with a margin; entropy near 0 is the difference of such terms.
    np.testing.assert_allclose(stats.entropy, -plogp.sum(-1), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(stats.logsumexp, peak + np.log(np.exp(wide - peak[..., None]).sum(-1)), rtol=1e-6)
    np.testing.assert_allclose(stats.max_probability, p.max(-1), rtol=2e-6)
    np.testing.assert_array_equal(stats.argmax, wide.argmax(-1))
    assert stats.argmax.dtype == jnp.int32
    if "uniforms" not in inputs:
        assert stats.token is None
        return
    temperature = np.broadcast_to(inputs.get("temperature", 1.0), wide.shape[:-1]).ravel()
    rows = wide.reshape(-1, wide.shape[-1])
    tokens = np.ravel(stats.token)
    for row, u, t, token, best in zip(
        rows, np.reshape(inputs["uniforms"], (-1, 2)), temperature, tokens, np.ravel(stats.argmax), strict=True
    ):
        if t <= 0:
            assert token == best
        else:
            assert_drawn(softmax64((row - row.max()) / t), u, token)


def test_ties_give_the_lowest_id():
    logits = jnp.zeros((1, 5003)).at[0, jnp.array([300, 301, 900])].set(2.0)
    for name in runnable(BACKENDS):
        assert int(entropy(logits, implementation=name).argmax[0]) == 300


@pytest.mark.parametrize("implementation", runnable(BACKENDS))
def test_a_row_with_a_nan_stays_in_the_vocabulary(implementation):
    logits = jnp.zeros((2, 5003)).at[0].set(jnp.nan).at[1, 7].set(jnp.nan)
    stats = entropy(logits, uniforms=jnp.full((2, 2), 0.5), temperature=jnp.float32(0.0), implementation=implementation)
    assert np.isnan(stats.logsumexp).all()
    for ids in (stats.argmax, stats.token):
        assert ((np.asarray(ids) >= 0) & (np.asarray(ids) < 5003)).all()


def test_a_certain_row_has_entropy_zero():
    logits = jnp.full((1, 5003), -jnp.inf).at[0, 4000].set(7.0)
    stats = entropy(logits, implementation="xla")
    assert float(stats.entropy[0]) == 0.0
    assert float(stats.max_probability[0]) == 1.0


def test_narrow_logits_are_read_as_they_are():
    logits = jnp.asarray(CASES["ragged"]()["logits"], jnp.bfloat16)
    wide = entropy(logits.astype(jnp.float32), implementation="reference")
    for name in runnable(BACKENDS):
        np.testing.assert_allclose(entropy(logits, implementation=name).entropy, wide.entropy, rtol=2e-6)


def test_another_temperature_does_not_recompile():
    traces = []

    @jax.jit
    def draw(logits, uniforms, temperature):
        traces.append(None)
        return gk.entropy(logits, uniforms=uniforms, temperature=temperature).token

    inputs = CASES["ragged"]()
    for temperature in (0.0, 0.5, 2.0):
        draw(inputs["logits"], inputs["uniforms"], jnp.float32(temperature))
    assert len(traces) == 1
