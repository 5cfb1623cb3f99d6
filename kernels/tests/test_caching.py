"""What a window leaves in a cache: every implementation and case, in place."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.caching.api import BACKENDS
from gelato_kernels.caching.cases import CASES
from gelato_kernels.dispatch import runnable

IMPLEMENTATIONS = runnable(BACKENDS)


def expected(cache, window, lengths):
    """Slot by slot."""
    written = cache.copy()
    for row, length in enumerate(lengths):
        for token in range(window.shape[-2]):
            if 0 <= length + token < cache.shape[-2]:
                written[row, ..., length + token, :] = window[row, ..., token, :].astype(cache.dtype)
    return written


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CASES)
def test_windows_stand_behind_their_texts(name, implementation):
    inputs = CASES[name]()
    written = jax.jit(partial(gk.write_window, implementation=implementation))(**inputs)
    assert written.dtype == inputs["cache"].dtype
    np.testing.assert_array_equal(np.float32(written), np.float32(expected(**inputs)))


@pytest.mark.parametrize("implementation", [name for name in IMPLEMENTATIONS if name != "reference"])
@pytest.mark.parametrize(("rows", "dtype"), [(1, jnp.float32), (3, jnp.float32), (3, jnp.bfloat16)])
def test_a_loop_writes_in_place(implementation, rows, dtype):
    if implementation == "xla" and (rows > 1 or dtype != jnp.float32):
        pytest.skip("XLA on a CPU copies")
    cache, window = jnp.zeros((rows, 2, 4096, 64), dtype), jnp.ones((rows, 2, 1, 64))

    def loop(cache):
        def step(i, cache):
            return gk.write_window(cache, window * i, jnp.full(rows, i), implementation=implementation)

        return jax.lax.fori_loop(0, 5, step, cache)

    compiled = jax.jit(loop, donate_argnums=0).lower(cache).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < cache.nbytes / 8
    written = compiled(cache)
    np.testing.assert_array_equal(written[:, :, :6, 0], np.broadcast_to([0, 1, 2, 3, 4, 0], (rows, 2, 6)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_cache_that_is_still_needed_stays(implementation):
    inputs = jax.tree.map(jnp.asarray, CASES["rows"]())
    before = np.array(inputs["cache"])

    @jax.jit
    def both(cache):
        written = gk.write_window(cache, inputs["window"], inputs["lengths"], implementation=implementation)
        return written, cache * 1.0

    written, same = both(inputs["cache"])
    np.testing.assert_array_equal(same, before)
    np.testing.assert_array_equal(inputs["cache"], before)
    assert (np.asarray(written) != before).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_mapped_over_texts(implementation):
    inputs = [CASES["rows"](), CASES["rows"]()]
    inputs[1]["lengths"] += 1
    stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *inputs)
    written = jax.vmap(lambda inputs: gk.write_window(**inputs, implementation=implementation))(stacked)
    for one, each in zip(written, inputs, strict=True):
        np.testing.assert_array_equal(one, expected(**each))
