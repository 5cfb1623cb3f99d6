"""Top-p and top-k against a NumPy sort, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.dispatch import runnable
from gelato_kernels.truncation.api import TOP_P_BACKENDS
from gelato_kernels.truncation.cases import CASES, TOP_K, TOP_P

IMPLEMENTATIONS = runnable(TOP_P_BACKENDS)


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def ops(request):
    top_p = jax.jit(lambda x, p: gk.top_p_logits(x, p, implementation=request.param))
    return top_p, jax.jit(lambda x, k: gk.top_k_logits(x, k, implementation=request.param))


def kept_by_sort(logits, k):
    """The set of a stable sort that does not cut through equals."""
    k = k if 0 < k <= len(logits) else len(logits)
    return logits >= np.sort(logits)[::-1][k - 1]


@pytest.mark.parametrize("case", CASES)
def test_top_k(ops, case):
    logits = CASES[case]()
    for k in TOP_K:
        out = np.asarray(ops[1](logits, jnp.int32(k)))
        for row, got in zip(np.asarray(logits), out, strict=True):
            np.testing.assert_array_equal(got, np.where(kept_by_sort(row, k), row, -np.inf))


@pytest.mark.parametrize("case", CASES)
def test_top_p(ops, case, softmax64):
    logits = CASES[case]()
    for top_p in TOP_P:
        out = np.asarray(ops[0](logits, jnp.float32(top_p)))
        for row, got, p in zip(np.asarray(logits), out, softmax64(logits), strict=True):
            if top_p >= 1:
                np.testing.assert_array_equal(got, row)
                continue
            kept = got > -np.inf
            np.testing.assert_array_equal(got[kept], row[kept])
            smallest = row[kept].min()
            # The kept set is closed upwards, holds enough mass, and would not without its smallest value.
            np.testing.assert_array_equal(kept[row > smallest], True)
            weights = np.exp((row - row.max()).astype(np.float32))
            np.testing.assert_array_equal(kept, weights >= weights[kept].min())
            assert p[kept].sum() >= top_p - 2e-6
            assert p[kept & (weights > weights[kept].min())].sum() < top_p + 2e-6


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.5, 1), (0.51, 4), (0.875, 4), (0.88, 6), (0.0, 1), (-1.0, 1), (1.0, 8), (2.0, 8)],
)
def test_top_p_is_exact_on_powers_of_two(ops, top_p, kept):
    # Probabilities 1/2, 3 x 1/8, 2 x 1/16, and 2 impossible ones: every sum is exact in float32.
    logits = jnp.log2(jnp.array([1 / 16, 1 / 8, 0, 1 / 2, 1 / 8, 1 / 16, 1 / 8, 0]))
    weights = jnp.where(logits > -jnp.inf, logits * jnp.log(2.0), -jnp.inf)
    got = np.asarray(ops[0](weights, jnp.float32(top_p)))
    expected = np.sort(np.asarray(weights))[::-1][min(kept, 8) - 1]
    np.testing.assert_array_equal(got, np.where(np.asarray(weights) >= expected, weights, -np.inf))


def test_levels_per_row_and_zeros_of_both_signs(ops):
    logits = jnp.array([[0.0, -0.0, 1.0, -1.0], [0.0, -0.0, -1.0, -2.0]])
    np.testing.assert_array_equal(np.isfinite(ops[1](logits, jnp.array([2, 1]))), [[1, 1, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(np.isfinite(ops[0](logits, jnp.array([1.0, 0.1]))), [[1, 1, 1, 1], [1, 1, 0, 0]])


def test_another_level_does_not_recompile(ops):
    logits = CASES["tiny"]()
    for op, levels in zip(ops, ((0.2, 0.9), (1, 3)), strict=True):
        op(logits, jnp.asarray(levels[0]))
        before = op._cache_size()
        op(logits, jnp.asarray(levels[1]))
        assert op._cache_size() == before


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, None])
def test_a_warp_is_its_parts_one_after_the_other(implementation):
    logits = jnp.concatenate([CASES["ragged"](), jnp.zeros((1, CASES["ragged"]().shape[1]))])[:4]
    temperature, top_k, top_p = (
        jnp.array([0.0, 0.7, 1.3, -1.0]),
        jnp.array([3, 40, 0, 0]),
        jnp.array([0.5, 0.6, 0.9, 1.0]),
    )
    out = np.asarray(gk.warp_logits(logits, temperature, top_k=top_k, top_p=top_p, implementation=implementation))
    for row in (1, 2):
        parts = gk.top_k_logits(logits[row] / temperature[row], top_k[row], implementation="reference")
        parts = np.asarray(gk.top_p_logits(parts, top_p[row], implementation="reference"))
        np.testing.assert_array_equal(out[row] > -np.inf, parts > -np.inf)
        np.testing.assert_allclose(out[row], parts, rtol=1e-6)
    for row in (0, 3):
        point = np.full(logits.shape[1], -np.inf)
        point[np.argmax(logits[row])] = 0.0
        np.testing.assert_array_equal(out[row], point)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, None])
def test_a_row_of_no_numbers_keeps_its_argmax_in_the_vocabulary(implementation):
    logits = jnp.array([[1.0, jnp.nan, 0.0], [jnp.inf, 0.0, 1.0]])
    out = gk.warp_logits(logits, jnp.zeros(2), implementation=implementation)
    assert (np.asarray(out) == 0).sum(axis=1).tolist() == [1, 1]
