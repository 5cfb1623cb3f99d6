"""Attention, rotary embedding and the cache, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from gelato_jax.config import RopeScaling
from gelato_jax.models import allocate, write
from gelato_jax.models.attention import attend_to_itself
from gelato_jax.models.layers import rope_frequencies, rotate
from gelato_jax.testing import tiny_config

ROWS, HEADS, KV_HEADS, SIZE, SLOTS = 2, 4, 2, 8, 64


def reference(query, keys, values):
    """Causal softmax attention in float64, row by row and head by head."""
    rows, window, heads, size = query.shape
    out = np.zeros((rows, window, heads, size))
    for row, head, step in np.ndindex(rows, heads, window):
        seen = (row, head // (heads // KV_HEADS), slice(step + 1))
        scores = keys[seen].astype(np.float64) @ query[row, step, head] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        out[row, step, head] = weights @ values[seen] / weights.sum()
    return out.reshape(rows, window, heads * size)


@pytest.fixture
def arrays():
    """Queries, keys and values of a window of three tokens."""
    rng = np.random.default_rng(0)
    shapes = [(ROWS, 3, HEADS, SIZE), *2 * [(ROWS, KV_HEADS, 3, SIZE)]]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def test_without_a_cache_a_window_attends_to_its_past_alone(arrays):
    np.testing.assert_allclose(jax.jit(attend_to_itself)(*arrays), reference(*arrays), rtol=0, atol=2e-5)


def test_it_has_a_gradient(arrays):
    towards = np.random.default_rng(1).standard_normal((ROWS, 3, HEADS * SIZE), np.float32)

    def loss(*arrays):
        return (attend_to_itself(*arrays) * towards).sum()

    test_util.check_grads(loss, arrays, order=1, modes=("rev",), atol=1e-2, rtol=1e-2)


def test_rotation_shows_distances_alone():
    rng = np.random.default_rng(1)
    frequencies = rope_frequencies(tiny_config(head_dim=SIZE))
    np.testing.assert_allclose(frequencies, 1e4 ** -(np.arange(0, SIZE, 2) / SIZE), rtol=1e-6)
    query, key = (rng.standard_normal((1, 1, 1, SIZE), np.float32) for _ in range(2))

    def angles(position):
        return tuple(of(position * frequencies)[None, None] for of in (jnp.cos, jnp.sin))

    def score(first, second):
        turn = lambda x, position: rotate(x, angles(position))  # noqa: E731
        return float((turn(query, first) * turn(key, second)).sum())

    assert score(7.0, 3.0) == pytest.approx(score(104.0, 100.0), abs=1e-4)
    assert score(7.0, 3.0) != pytest.approx(score(7.0, 4.0), abs=1e-3)
    assert score(0.0, 0.0) == pytest.approx(float((query * key).sum()), abs=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rotate(query, angles(5.0))), np.linalg.norm(query), rtol=1e-5)


def test_llama3_stretches_low_frequencies_alone():
    """Short waves stay, waves beyond the original context turn `factor` times slower, between them a blend."""
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
    plain = np.asarray(rope_frequencies(tiny_config(head_dim=128, rope_theta=5e5)), np.float64)
    scaled = np.asarray(rope_frequencies(tiny_config(head_dim=128, rope_theta=5e5, rope_scaling=scaling)), np.float64)
    waves = 2 * np.pi / plain
    short, long = waves < 8192 / 4, waves > 8192
    np.testing.assert_allclose(scaled[short], plain[short], rtol=1e-5)
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-5)
    blend = ~short & ~long
    share = (8192 / waves[blend] - 1) / 3
    np.testing.assert_allclose(scaled[blend], plain[blend] * ((1 - share) / 8 + share), rtol=1e-4)
    assert short.any()
    assert long.any()
    assert blend.any()


def test_a_cache_has_the_shape_asked_for():
    config = tiny_config(layers=2, num_heads=4, num_kv_heads=2)
    arrays = jax.tree.leaves(allocate(config, 3, 7))
    assert [array.shape for array in arrays] == [(3, 2, 7, 8)] * 4
    assert allocate(config, 1, 5, jnp.bfloat16)[0][0].dtype == jnp.bfloat16


@pytest.mark.parametrize(("rows", "window"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_write_lands_behind_every_rows_length(rows, window):
    config = tiny_config(layers=1)
    rng = np.random.default_rng(4)
    before = tuple(jnp.asarray(rng.standard_normal((rows, 1, SLOTS, 8), np.float32)) for _ in range(2))
    fresh = tuple(rng.standard_normal((rows, 1, window, 8), np.float32) for _ in range(2))
    lengths = np.asarray([4, 0, SLOTS - 1])[:rows]
    after = write((before,), (fresh,), jnp.asarray(lengths), after=jnp.zeros(3))
    expected = [np.array(array) for array in before]
    for old, new in zip(expected, fresh, strict=True):
        for row, length in enumerate(lengths):
            fits = min(window, SLOTS - length)  # what would pass the end is dropped
            old[row, :, length : length + fits] = new[row, :, :fits]
    assert len(after) == config.num_layers
    for ours, wanted in zip(after[0], expected, strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_half_precision_caches_round_what_they_are_given():
    cache = allocate(tiny_config(layers=1), 2, 4, jnp.bfloat16)
    fresh = jnp.full((2, 1, 1, 8), 1 / 3, jnp.float32)
    kept = write(cache, ((fresh, fresh),), jnp.zeros(2, jnp.int32), after=jnp.zeros(2))
    assert kept[0][0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept[0][0][:, :, 0], fresh[:, :, 0].astype(jnp.bfloat16))
