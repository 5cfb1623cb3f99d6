"""Random numbers are JAX's own, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax import keys, threefry


@pytest.mark.parametrize("data", [0, 1, 77, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**32 - 1])
def test_folds_are_jaxs(seed, data):
    key = jax.random.fold_in(jax.random.key(jnp.uint32(seed)), 3)
    expected = jax.random.key_data(jax.random.fold_in(key, jnp.uint32(data)))
    np.testing.assert_array_equal(threefry.fold_in(jax.random.key_data(key), jnp.uint32(data)), expected)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 5), (4, 0), (49_152,)])
def test_bits_are_jaxs(shape):
    key = jax.random.key(17)
    expected = jax.random.bits(key, shape, jnp.uint32)
    np.testing.assert_array_equal(threefry.random_bits(jax.random.key_data(key), shape), expected)


@pytest.mark.parametrize("number", range(5))
def test_exponential_numbers_are_jaxs(number):
    key = jax.random.fold_in(jax.random.key(3), number)
    np.testing.assert_array_equal(threefry.exponential(jax.random.key_data(key)), jax.random.exponential(key))


def test_a_rows_key_is_its_seeds():
    bits = keys.row_keys(jnp.array([[5, 0], [5, 1], [2**32 - 1, 0]], jnp.uint32))
    own = jax.random.key(jnp.uint32(5))
    np.testing.assert_array_equal(bits[0], jax.random.key_data(own))
    np.testing.assert_array_equal(bits[1], jax.random.key_data(jax.random.fold_in(own, 1)))
    np.testing.assert_array_equal(bits[2], jax.random.key_data(jax.random.key(jnp.uint32(2**32 - 1))))
