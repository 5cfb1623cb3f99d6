"""Plain decoding by the target alone: the baseline of every claim and the oracle of the tests."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gelato_jax.decoding import keys
from gelato_jax.decoding.commit import append
from gelato_jax.decoding.prefill import draw_target, first_token, read_prompt
from gelato_jax.decoding.records import Job, Shapes
from gelato_jax.models import Cache, write


class Text(NamedTuple):
    """Decoded rows."""

    tokens: Array  # [B, S] int32 prompt and text
    length: Array  # [B] int32


class _Loop(NamedTuple):
    text: Text
    done: Array
    cache: Cache
    step: Array


def decode_alone(job: Job, tokens: Array, prompt_length: Array, limit: Array, seed: Array, shapes: Shapes) -> Text:
    """Decode one token a step with the target, under the same law and the same ends as `generate`.

    Greedy text equals `generate`'s, and under the `seeded` payload's random numbers sampled text
    does too; otherwise only the law is the same. Arguments as `prefill`.

    Returns:
        The rows' tokens and lengths.
    """
    decoder = job.target.bind()
    row_keys = keys.row_keys(seed, tokens.shape[0])

    def step(loop: _Loop) -> _Loop:
        tokens, length = loop.text
        last = jnp.take_along_axis(tokens, length[:, None] - 1, axis=1)
        x, fresh = decoder.forward(last, loop.cache, length - 1)
        cache = write(loop.cache, fresh, length - 1, after=x)
        token = draw_target(job, x[:, 0], row_keys, jnp.full_like(length, loop.step), length)
        return extend(loop, token, cache)

    def extend(loop: _Loop, token: Array, cache: Cache) -> _Loop:
        count = (~loop.done).astype(jnp.int32)
        length = loop.text.length + count
        return _Loop(
            text=Text(append(loop.text.tokens, token[:, None], loop.text.length, count), length),
            done=loop.done | jnp.isin(token, job.eos_ids) | (length >= limit),
            cache=cache,
            step=loop.step + 1,
        )

    cache, last = read_prompt(job.target, tokens, prompt_length, shapes, tokens.shape[1])
    start = _Loop(
        text=Text(tokens, prompt_length),
        done=jnp.zeros(prompt_length.shape, bool),
        cache=cache,
        step=jnp.zeros((), jnp.int32),
    )
    start = extend(start, first_token(job, last, row_keys, prompt_length), cache)
    return lax.while_loop(lambda loop: ~loop.done.all(), step, start).text
