"""JAX's default generator, bit for bit, as plain arithmetic that XLA makes one fusion of.

`jax.random` gives a CPU a loop of five turns for each fold and each draw: small operations, of which a round had two
hundred, and a third of a simulated one. Threefry-2x32 with 20 rounds: Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011.
"""

import math

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # of the key schedule, section 4 there


def _block(key: Array, high: ArrayLike, low: ArrayLike) -> tuple[Array, Array]:
    """Both words of a counter's block, of keys `[..., 2]` and counters that broadcast with `[...]`."""
    words = key[..., 0], key[..., 1], key[..., 0] ^ key[..., 1] ^ jnp.uint32(_PARITY)
    x, y = jnp.asarray(high, jnp.uint32) + words[0], jnp.asarray(low, jnp.uint32) + words[1]
    for turn in range(5):
        for bits in _ROTATIONS[turn % 2]:
            x = x + y
            y = (y << bits | y >> (32 - bits)) ^ x
        x = x + words[(turn + 1) % 3]
        y = y + words[(turn + 2) % 3] + jnp.uint32(turn + 1)
    return x, y


def fold_in(key: Array, data: ArrayLike) -> Array:
    """`jax.random.fold_in` of a key's bits `[2]` and a number [] of 32 bits."""
    return jnp.stack(_block(key, 0, jnp.asarray(data).astype(jnp.uint32)))


def random_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """`jax.random.bits` of a key's bits `[2]`: uint32 `shape`, of fewer than 2^32 numbers."""
    high, low = _block(key, 0, jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape))
    return high ^ low


def exponential(key: Array) -> Array:
    """`jax.random.exponential` of a key's bits `[2]`: [] float32."""
    one_to_two = lax.bitcast_convert_type(random_bits(key, ()) >> 9 | jnp.uint32(0x3F800000), jnp.float32)
    return -jnp.log1p(-(one_to_two - 1.0))
