"""The random numbers of simulated devices: JAX's own, bit by bit, in a form that a CPU runs faster.

On a CPU JAX keeps the rounds of its hash (Threefry-2x32, Salmon et al., SC 2011) in a loop, which saves compile
time and costs a third of a simulated round. Here they are written out, so that they are fused with what they feed.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import define_prng_impl

from gelato_jax.keys import typed

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def unrolled(keys: Array) -> Array:
    """The same keys: what is folded into and drawn from them is the same, bits of 32.

    Args:
        keys: of JAX's default kind: `[..., 2]` bits, as `keys.row_keys` has them, or typed.

    Returns:
        Typed keys.
    """
    return jax.random.wrap_key_data(jax.random.key_data(typed(keys)), impl=_UNROLLED)


def _hash(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    high, low = high + schedule[0], low + schedule[1]
    for block in range(5):
        for bits in _ROTATIONS[block % 2]:
            high = high + low
            low = ((low << jnp.uint32(bits)) | (low >> jnp.uint32(32 - bits))) ^ high
        high = high + schedule[(block + 1) % 3]
        low = low + schedule[(block + 2) % 3] + jnp.uint32(block + 1)
    return high, low


def _fold_in(key: Array, data: Array | int) -> Array:
    return jnp.stack(_hash(key, jnp.uint32(0), jnp.asarray(data).astype(jnp.uint32)))


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    if bit_width != 32:
        raise NotImplementedError(f"bits of {bit_width}: simulated devices draw 32")
    high, low = _hash(key, jnp.uint32(0), jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape))
    return high ^ low


def _refuse(*arguments):
    raise NotImplementedError("keys of simulated devices are made by JAX, and folded into")


_UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=_refuse,
    split=_refuse,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="gelato_unrolled_threefry2x32",
    tag="gut",
)
