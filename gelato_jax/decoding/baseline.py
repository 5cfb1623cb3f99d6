"""Plain decoding by the target alone: the baseline of every claim and the oracle of the tests."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gelato_jax import keys
from gelato_jax.decoding.commit import append
from gelato_jax.decoding.prefill import draw_target, read_tokens
from gelato_jax.decoding.records import Job, Shapes
from gelato_jax.models import Cache, write


class Text(NamedTuple):
    """Decoded rows."""

    tokens: Array  # [B, S] int32 prompt and text
    length: Array  # [B] int32
    fault: Array  # [B] bool the row ended because a model's logits were no numbers


class _Loop(NamedTuple):
    text: Text
    done: Array
    cache: Cache
    step: Array


def decode_alone(job: Job, tokens: Array, prompt_length: Array, limit: Array, seeds: Array, shapes: Shapes) -> Text:
    """Decode one token a step with the target, under the same distribution and the same ends as `generate`.

    Greedy text equals `generate`'s, and under the `seeded` payload's random numbers sampled text
    does too; otherwise only the distribution is the same. Arguments as `prefill`.

    Returns:
        The rows' tokens and lengths.
    """
    decoder = job.target.bind()
    row_keys = keys.row_keys(seeds)
    draw = partial(draw_target, job.target, job.sampling, job.policy.payload)

    def step(loop: _Loop) -> _Loop:
        tokens, length, _ = loop.text
        last = jnp.take_along_axis(tokens, length[:, None] - 1, axis=1)
        x, fresh = decoder.forward(last, loop.cache, length - 1, (~loop.done).astype(jnp.int32))
        cache = write(loop.cache, fresh, length - 1, after=x)
        drawn = draw(x[:, 0], row_keys, jnp.full_like(length, loop.step), length)
        return extend(loop, drawn, cache)

    def extend(loop: _Loop, drawn: tuple[Array, Array], cache: Cache) -> _Loop:
        token, faulty = drawn
        fault = loop.text.fault | (~loop.done & faulty)
        count = (~loop.done & ~fault).astype(jnp.int32)
        length = loop.text.length + count
        return _Loop(
            text=Text(append(loop.text.tokens, token[:, None], loop.text.length, count), length, fault),
            done=loop.done | fault | jnp.isin(token, job.eos_ids) | (length >= limit),
            cache=cache,
            step=loop.step + 1,
        )

    cache, last = read_tokens(job.target, tokens, prompt_length, shapes)
    none = jnp.zeros(prompt_length.shape, bool)
    start = _Loop(
        text=Text(tokens, prompt_length, none),
        done=none,
        cache=cache,
        step=jnp.zeros((), jnp.int32),
    )
    first = draw(last, row_keys, jnp.zeros_like(prompt_length), prompt_length)
    start = extend(start, first, cache)
    return lax.while_loop(lambda loop: ~loop.done.all(), step, start).text
