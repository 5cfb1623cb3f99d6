"""The begin of step 2 of a round: the draft's cache is fed the committed tokens that it has not seen.

The last committed token is the first draft step's input. Where a window costs the tokens that are there, the one
before it goes with it: drafts accepted whole leave just that one, and a pass of its own costs as much as a draft.
"""

import jax.numpy as jnp
from jax import Array, lax

from gelato_jax.decoding.records import DeviceState
from gelato_jax.models import Cache, Decoder, Fresh, pad_window, write

CATCH_UP_WINDOW = 16
"""Tokens fed at a time to a draft's cache that lags by more than one."""


def step_window(decoder: Decoder) -> int:
    """Tokens that a draft step may be fed: the next input, and a committed one that the cache lacks."""
    return 2 if decoder.config.saves_tokens else 1


def tokens_from(tokens: Array, start: Array, count: int) -> Array:
    """`count` tokens of each row from `start [B]`, `[B, count]`."""
    return jnp.take_along_axis(tokens, start[:, None] + jnp.arange(count), axis=1, mode="clip")


def catch_up(decoder: Decoder, state: DeviceState, drafting: Array) -> tuple[Cache, Array]:
    """Feed the cache of rows that will draft all but what their first draft step is fed: `step_window` at most."""

    def missing(length: Array) -> Array:
        return jnp.maximum(jnp.where(drafting, state.length - step_window(decoder) - length, 0), 0)

    def feed(window: int):
        def run(cache: Cache, length: Array) -> tuple[Fresh, Array, Array]:
            tokens = tokens_from(state.tokens, length, window)
            angles = decoder.angles(length, window)
            last = decoder.config.num_layers - 1
            valid = missing(length)
            x, fresh = decoder.run(decoder.embed_tokens(tokens), angles, cache, length, 0, last, valid=valid)
            fresh = (*fresh, *decoder.skip(x, angles, last, last + 1, valid))
            return pad_window(fresh, CATCH_UP_WINDOW), length + jnp.minimum(missing(length), window), x.max()

        return run

    def step(carry: tuple[Cache, Array]) -> tuple[Cache, Array]:
        cache, length = carry
        many = feed(CATCH_UP_WINDOW)
        if decoder.config.saves_tokens:
            fresh, new_length, after = many(cache, length)
        else:
            fresh, new_length, after = lax.cond(missing(length).max() > 1, many, feed(1), cache, length)
        return write(cache, fresh, length, after=after), new_length

    return lax.while_loop(lambda carry: missing(carry[1]).max() > 0, step, (state.cache, state.cache_length))
