"""Bits per token against the published numbers and against formulas in plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gelato_jax.system import id_bits, payload

V = 151_936
SCHEMES = {
    "full": payload.full,
    "top_p": lambda: payload.top_p(0.9),
    "top_k": lambda: payload.top_k(8),
    "quantized": lambda: payload.quantized(16),
    "scalar": payload.scalar,
    "candidates": lambda: payload.candidates(4),
    "seeded": payload.seeded,
}


def _up(scheme, **changes):
    arguments = {"drafted": 1, "support_sum": 8, "vocab_size": V, "draft_vocab_size": V, **changes}
    return float(SCHEMES[scheme]().uplink_bits(**arguments))


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("seeded", 18), ("scalar", 50), ("candidates", 50), ("top_p", 50 * 8), ("top_k", 50 * 8)],
)
def test_bits_per_token_exactly(scheme, bits):
    assert _up(scheme) == bits


@pytest.mark.parametrize(("scheme", "megabits"), [("full", 4.86), ("quantized", 2.43)])
def test_bits_per_token_of_a_whole_distribution(scheme, megabits):
    assert _up(scheme) / 1e6 == pytest.approx(megabits, abs=0.005)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("drafted", [0, 1, 7])
def test_uplink_in_plain_python(scheme, drafted):
    support, pending, width = 3 * drafted + 1, 1, 8_192
    per_token = {"full": 18 + 32 * width, "quantized": 18 + 16 * width, "scalar": 50, "candidates": 50, "seeded": 18}
    bits = 50 * support if scheme in ("top_p", "top_k") else per_token[scheme] * drafted
    sent = _up(scheme, drafted=drafted, support_sum=support, draft_vocab_size=width, pending_ids=pending)
    assert sent == bits + 18 * pending


@pytest.mark.parametrize("scheme", SCHEMES)
def test_downlink_in_plain_python(scheme):
    rejected = np.array([False, True, True])
    rows = np.array([0, 0, 1]) if scheme in ("scalar", "candidates") else np.zeros(3, int)
    sent = SCHEMES[scheme]().downlink_bits(rejected=jnp.asarray(rejected), rows_sent=jnp.asarray(rows), vocab_size=V)
    pairs = 4 * 50 if scheme == "candidates" else 0
    on_device = scheme in ("scalar", "candidates")
    expected = [8 + 18, 8 + pairs, 8 + pairs + 32 * V] if on_device else [8 + 18] * 3
    np.testing.assert_allclose(sent, expected, rtol=1e-7)


def test_candidates_save_three_orders_of_magnitude_when_one_is_accepted():
    row = float(payload.scalar().downlink_bits(rejected=jnp.array(True), rows_sent=jnp.array(1), vocab_size=V))
    pairs = payload.candidates(16).downlink_bits(rejected=jnp.array(True), rows_sent=jnp.array(0), vocab_size=V)
    assert row > 4.8e6
    assert float(pairs) < 1_000


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_row_is_asked_for_with_the_chance_that_no_candidate_is_accepted(seed, count):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(5), size=2)
    accepted = np.sum(p * np.maximum(0, 1 - q / p))
    beta = np.minimum(p, q).sum()
    chance = payload.candidates(count).row_probability(jnp.float32(1.0), jnp.float32(beta))
    np.testing.assert_allclose(chance, (1 - accepted) ** count, atol=1e-5)


@pytest.mark.parametrize(("vocab_size", "bits"), [(1, 0), (2, 1), (49_152, 16), (65_536, 16), (65_537, 17), (V, 18)])
def test_id_bits(vocab_size, bits):
    assert id_bits(vocab_size) == bits


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: payload.top_p(1.5), "top_p"),
        (lambda: payload.top_k(0), "top_k"),
        (lambda: payload.quantized(1), "bits"),
        (lambda: payload.candidates(-1), "candidates"),
    ],
)
def test_refuses_numbers_out_of_range(build, name):
    with pytest.raises(ValueError, match=name):
        build()
