"""Random numbers of a decode. Two rules, and mixing them up bends the output's distribution.

Rejection payloads: a uniform belongs to (row, the row's own round, use) and is never seen twice,
because past draws steer the controller and with it where a round begins. `seeded`: noise belongs to
(row, absolute position), and both models must see the same.

Keys are kept as their bits: a program that takes or gives JAX's typed keys is called the slow way, 3 ms in place of a
few tenths for a round's seven hundred arrays.
"""

from enum import IntEnum

import jax
import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.threefry import exponential, fold_in, random_bits


class _Stream(IntEnum):
    """Independent streams under a row's key."""

    ROUND = 0
    POSITION = 1
    LINK = 2
    REQUEST = 3
    ENVIRONMENT = 4


class Use(IntEnum):
    """What a round's uniforms are for. `DRAFT + i` draws draft token i, so it comes last."""

    ACCEPT = 0
    NEXT_TOKEN = 1
    CANDIDATES = 2
    DRAFT = 3


def row_keys(seeds: Array) -> Array:
    """One key per row, `[B, 2]` bits: a row's draws depend on its seed alone, not on its place or its batch mates.

    Args:
        seeds: `[B, 2]` integer: a seed, and a number that tells rows apart that share it; 0 is the seed's own.
    """

    def draw(seed: Array) -> Array:
        own = jnp.stack([jnp.zeros_like(seed[0]), seed[0]])  # `jax.random.key` of it
        return jnp.where(seed[1] > 0, fold_in(own, seed[1]), own)

    return jax.vmap(draw)(jnp.asarray(seeds).astype(jnp.uint32))


def spread(seed: Array, rows: int) -> Array:
    """One seed [] for `rows` rows, which then draw apart: `[rows, 2]`, see `row_keys`."""
    apart = jnp.arange(rows, dtype=jnp.uint32)
    return jnp.stack([jnp.full_like(apart, seed), apart], axis=1)


def link_keys(keys: Array) -> Array:
    """The key of each row's radio link, of the rows' own `[B, 2]`, and like those."""
    return jax.vmap(lambda key: fold_in(key, _Stream.LINK))(keys)


def round_uniforms(keys: Array, rounds: Array, use: int | Array, shape: tuple[int, ...]) -> Array:
    """Uniforms `[B, *shape]` of one use in each row's round `[B]`."""

    def draw(key: Array, number: Array) -> Array:
        return _uniforms(fold_in(fold_in(fold_in(key, _Stream.ROUND), number), use), shape)

    return jax.vmap(draw)(keys, rounds)


def position_noise(keys: Array, positions: Array, vocab_size: int) -> Array:
    """Gumbel noise `[B, T, V]` of the tokens at absolute `positions [B, T]`, by target id."""

    def draw(key: Array, position: Array) -> Array:
        key = fold_in(fold_in(key, _Stream.POSITION), position)
        return gelato_kernels.uniforms_to_gumbel(_uniforms(key, (vocab_size,)))

    return jax.vmap(jax.vmap(draw, (None, 0)))(keys, positions)


def request_uniform(key: Array, request: Array) -> Array:
    """A uniform [] of a row's request [] int32, of no round and no position: which prompt comes next."""
    return _stream_uniform(key, _Stream.REQUEST, request)


def environment_uniform(key: Array, round: Array) -> Array:
    """A uniform [] of a row's round [] int32: how its world changes."""
    return _stream_uniform(key, _Stream.ENVIRONMENT, round)


def fading(key: Array, block: Array) -> Array:
    """Exp(1) [] of a link's key and a block [] int32 of its time: the power gain of a Rayleigh channel."""
    return exponential(fold_in(key, block))


def _uniforms(key: Array, shape: tuple[int, ...]) -> Array:
    return gelato_kernels.bits_to_uniforms(random_bits(key, shape))


def _stream_uniform(key: Array, stream: _Stream, index: Array) -> Array:
    return _uniforms(fold_in(fold_in(key, stream), index), ())
