"""How a draft token is drawn: the head's logits become q, which the payload can carry, and a token comes out of it."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.decoding.records import DeviceState, Job, RowState, with_weights
from gelato_jax.decoding.repeats import find_repeat, weigh_repeat
from gelato_jax.decoding.sampling import shape_logits
from gelato_jax.keys import Use
from gelato_jax.payloads import RoundNoise
from gelato_jax.types import record


@record
class Drawn:
    """One draft token of every row, and the q that it was drawn from; leaves `[B]`."""

    token: Array  # int32 target id
    log_prob: Array  # log q
    log_weights: Array  # [B, Q]
    repeated: Array  # int32 target id of q's further column
    exit: Array  # int32
    entropy: Array
    max_probability: Array
    support: Array  # float32 tokens that q can give
    fault: Array  # bool


def noise(state: DeviceState, row: RowState, job: Job) -> RoundNoise:
    """The random numbers of this round, as the device knows them."""
    greedy = job.sampling.temperature <= 0
    return RoundNoise(key=state.key, round=row.round, position=state.length, greedy=greedy)


def draw(logits: Array, exits: Array, index: Array, text: Array, state: DeviceState, row: RowState, job: Job) -> Drawn:
    """Make the q of a draft token from the head's logits, and draw from it.

    Args:
        logits: `[B, U]`.
        exits: `[B]` int32 exits that they were read at.
        index: `[]` int32 tokens drafted before this one.
        text: `[B, S]` int32 committed tokens, then drafted ones.
        state: before the round.
        row: the same rows' counters.
        job: draft, payload, sampling.
    """
    payload = job.policy.payload
    logits, repeated = _distribution(logits, text, state.length + index, exits, job)
    stats = gelato_kernels.entropy(logits)
    scale = jax.vmap(job.policy.draft_sampling.temperature_scale)(stats.entropy)
    weights = payload.shape(shape_logits(logits, job.sampling, scale))
    column, token = _choose(weights, repeated, index, state, row, job)
    log_prob = jnp.take_along_axis(weights, column[:, None], axis=1)[:, 0] - gelato_kernels.entropy(weights).logsumexp
    return Drawn(
        token=token,
        log_prob=log_prob,
        log_weights=weights,
        repeated=repeated,
        exit=exits,
        entropy=stats.entropy,
        max_probability=stats.max_probability,
        support=jnp.isfinite(weights).sum(axis=-1).astype(jnp.float32),
        fault=~jnp.isfinite(stats.logsumexp),
    )


def _distribution(logits: Array, text: Array, length: Array, exits: Array, job: Job) -> tuple[Array, Array]:
    """The draft's unprocessed distribution: logits `[B, Q]`, and the id `[B]` of its further column."""
    draft = with_weights(job.draft)
    vocabulary, repeats = draft.vocabulary, draft.repeats
    if repeats is None:
        return logits, jnp.zeros_like(length)
    odds = repeats.at(job.sampling.temperature)
    repeated, count = find_repeat(text, length, odds.longest)
    return weigh_repeat(logits, repeated, count, exits, vocabulary, odds), repeated


def _choose(
    weights: Array, repeated: Array, index: Array, state: DeviceState, row: RowState, job: Job
) -> tuple[Array, Array]:
    """Draw draft token `index` from `weights [B, Q]`: its column and its target id, `[B]`."""
    ids, source = job.draft_ids, noise(state, row, job)
    if job.policy.payload.scheme == "seeded":
        source = dataclasses.replace(source, position=source.position + index)
        gumbel = source.gumbel(1, ids.vocab_size)[:, 0]
        # The noise is the target id's, also under a vocabulary of the draft's own.
        gumbel = gumbel if ids.known is None else jnp.take_along_axis(gumbel, ids.names(repeated), axis=1)
        column = gelato_kernels.gumbel_argmax(weights, gumbel)
    else:
        column = gelato_kernels.sample(weights, source.uniforms(Use.DRAFT + index, (2,)))
    column = jnp.clip(column, 0, weights.shape[-1] - 1)  # a row of no numbers draws no column
    if ids.known is None:
        return column, column
    return column, jnp.take_along_axis(ids.names(repeated), column[:, None], axis=1)[:, 0]
