"""Step 2 of a round: the device drafts.

The draft's cache is fed what it has not seen, then tokens are drafted one by one. Entropy ends both
loops: the depth exit looks at an exit's entropy before the token is drawn and stops computing
layers; the length exit looks at the token's entropy and stops drafting. A computed token is always
sent: whether a token is sent never depends on what its draw showed.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.control import DepthSignal, acceptance_at
from gelato_jax.decoding import keys
from gelato_jax.decoding.accounting import draft_signal
from gelato_jax.decoding.records import DecodeState, Draft, DraftModel, Job, Shapes
from gelato_jax.decoding.repeats import find_repeat, weigh_repeat
from gelato_jax.decoding.sampling import next_token, shape_logits, shape_payload
from gelato_jax.models import Cache, Decoder, write
from gelato_jax.system import Channel
from gelato_jax.types import RoundPlan, record

CATCH_UP_WINDOW = 16
"""Tokens fed at a time to a draft's cache that lags by more than one."""


@record
class _Loop:
    """What the drafting loop carries."""

    index: Array  # [] int32 tokens drafted so far by the rows still drafting
    drafting: Array  # [B] bool
    token: Array  # [B] int32 next input
    text: Array  # [B, S] int32 committed tokens, then drafted ones
    cache: Cache
    length: Array  # [B] valid slots
    survival: Array  # [B] chance that every token so far is accepted
    length_exit: object
    draft: Draft


def draft(
    state: DecodeState, plan: RoundPlan, channel: Channel, job: Job, shapes: Shapes
) -> tuple[Draft, Cache, Array, object]:
    """Draft up to G tokens for every row.

    Args:
        state: before the round.
        plan: each row's budget and prices, leaves `[B]`.
        channel: each row's link, leaves `[B]`.
        job: models, policy, system.
        shapes: static sizes.

    Returns:
        The draft; the draft's cache and its valid slots `[B]`; the length exit's state.
    """
    decoder, exit_rule = job.draft.model.bind(), job.policy.length_exit
    size = shapes.max_draft_length
    exit_state = jax.vmap(exit_rule.start)(state.account.memory.length_exit, plan)
    if size == 0:
        nothing = _empty_draft(state, job.draft, size, jnp.zeros_like(state.length))
        return nothing, state.draft_cache, state.draft_length, exit_state
    limit = jax.vmap(lambda row_plan: exit_rule.limit(row_plan, size))(plan)
    limit = jnp.minimum(jnp.where(state.done, 0, limit), jnp.maximum(state.limit - state.length - 1, 0))
    drafting = limit > 0
    cache, length = _catch_up(decoder, state, drafting)
    loop = _Loop(
        index=jnp.zeros((), jnp.int32),
        drafting=drafting,
        token=_tokens_from(state.tokens, state.length - 1, 1)[:, 0],
        text=state.tokens,
        cache=cache,
        length=length,
        survival=jnp.ones_like(plan.token_value),
        length_exit=exit_state,
        draft=_empty_draft(state, job.draft, size, length - state.draft_length),
    )
    loop = lax.while_loop(
        lambda loop: (loop.index < size) & loop.drafting.any(),
        lambda loop: _draft_token(loop, decoder, state, plan, channel, limit, job),
        loop,
    )
    return loop.draft, loop.cache, loop.length, loop.length_exit


def _tokens_from(tokens: Array, start: Array, count: int) -> Array:
    """`count` tokens of each row from `start [B]`, `[B, count]`."""
    return jnp.take_along_axis(tokens, start[:, None] + jnp.arange(count), axis=1, mode="clip")


def _catch_up(decoder: Decoder, state: DecodeState, drafting: Array) -> tuple[Cache, Array]:
    """Feed the cache of rows that will draft, up to the token before the last committed one."""

    def missing(length: Array) -> Array:
        return jnp.where(drafting, state.length - 1 - length, 0)

    def feed(window: int):
        def run(cache: Cache, length: Array) -> tuple[Cache, Array, Array]:
            tokens = _tokens_from(state.tokens, length, window)
            angles = decoder.angles(length, window)
            last = decoder.config.num_layers - 1
            x, fresh = decoder.run(decoder.embed_tokens(tokens), angles, cache, length, 0, last)
            fresh = (*fresh, *decoder.skip(x, angles, last, last + 1))
            padding = [(0, 0), (0, 0), (0, CATCH_UP_WINDOW - window), (0, 0)]
            fresh = jax.tree.map(lambda array: jnp.pad(array, padding), fresh)
            return fresh, length + jnp.minimum(missing(length), window), x.max()

        return run

    def step(carry: tuple[Cache, Array]) -> tuple[Cache, Array]:
        cache, length = carry
        fresh, new_length, after = lax.cond(missing(length).max() > 1, feed(CATCH_UP_WINDOW), feed(1), cache, length)
        return write(cache, fresh, length, after=after), new_length

    return lax.while_loop(lambda carry: missing(carry[1]).max() > 0, step, (state.draft_cache, state.draft_length))


def _empty_draft(state: DecodeState, draft: DraftModel, size: int, caught_up: Array) -> Draft:
    rows = state.length.shape[0]
    numbers = jnp.zeros((rows, size), jnp.float32)
    return Draft(
        tokens=jnp.zeros((rows, size), jnp.int32),
        length=jnp.zeros((rows,), jnp.int32),
        log_prob=numbers,
        log_weights=jnp.zeros((rows, size, draft.num_outputs), jnp.float32),
        repeated=jnp.zeros((rows, size), jnp.int32),
        entropy=numbers,
        max_probability=numbers,
        exit=jnp.zeros((rows, size), jnp.int32),
        work=jnp.zeros((rows,), jnp.float32),
        support=jnp.zeros((rows,), jnp.float32),
        caught_up=caught_up,
    )


def _draft_token(
    loop: _Loop, decoder: Decoder, state: DecodeState, plan: RoundPlan, channel: Channel, limit: Array, job: Job
) -> _Loop:
    """Draft one token for every row that is still drafting."""
    normed, fresh, exits, after = _descend(loop, decoder, plan, job)
    cache = write(loop.cache, fresh, loop.length, after=after)
    length = state.length + loop.index
    logits, ids, repeated = _law(decoder.head_logits(normed)[:, 0], loop.text, length, exits, job)
    stats = gelato_kernels.entropy(logits)

    scale = jax.vmap(job.policy.draft_sampling.temperature_scale)(stats.entropy)
    weights = shape_payload(shape_logits(logits, job.sampling, scale), job.policy.payload)
    column = _draw(weights, ids, loop.index, state, job)[:, None]
    log_prob = jnp.take_along_axis(weights, column, axis=1)[:, 0] - gelato_kernels.entropy(weights).logsumexp
    token = jnp.take_along_axis(ids, column, axis=1)[:, 0]

    sent = loop.drafting
    update = {
        "tokens": token,
        "log_prob": log_prob,
        "log_weights": weights,
        "repeated": repeated,
        "entropy": jnp.where(sent, stats.entropy, 0.0),
        "max_probability": stats.max_probability,
        "exit": exits,
    }
    drafted = jax.tree.map(lambda old, new: old.at[:, loop.index].set(new), _select(loop.draft, update), update)
    support = jnp.isfinite(weights).sum(axis=-1).astype(jnp.float32)
    new_draft = Draft(
        **drafted,
        length=loop.draft.length + sent,
        work=loop.draft.work + jnp.where(sent, job.draft.work[exits], 0.0),
        support=loop.draft.support + jnp.where(sent, support, 0.0),
        caught_up=loop.draft.caught_up,
    )
    acceptance = jax.vmap(acceptance_at, (None, 0, 0, 0))(job.calibration, stats.entropy, exits, plan.acceptance_level)
    signal = jax.vmap(draft_signal, (0, 0, 0, None, 0, 0, 0, None))(
        stats.entropy, stats.max_probability, exits, loop.index, support, plan, channel, job.terms
    )
    length_exit, stop = jax.vmap(job.policy.length_exit.step)(loop.length_exit, signal)
    return _Loop(
        index=loop.index + 1,
        drafting=sent & ~stop & (loop.index + 1 < limit),
        token=token,
        text=loop.text.at[jnp.arange(token.shape[0]), length].set(token, mode="drop"),
        cache=cache,
        length=loop.length + sent,
        survival=loop.survival * acceptance,
        length_exit=_where_rows(sent, length_exit, loop.length_exit),
        draft=new_draft,
    )


def _select(record, names) -> dict:
    return {name: getattr(record, name) for name in names}


def _where_rows(rows: Array, new, old):
    """`new` for the rows named, `old` for the others."""
    return jax.tree.map(lambda a, b: jnp.where(rows.reshape(rows.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def _law(logits: Array, text: Array, length: Array, exits: Array, job: Job) -> tuple[Array, Array, Array]:
    """The draft's unprocessed law: logits `[B, Q]`, target ids of the columns `[B, Q]`, the repeated token `[B]`."""
    vocabulary, repeats = job.draft.vocabulary, job.draft.repeats
    known = jnp.arange(logits.shape[1]) if vocabulary is None else vocabulary
    ids, repeated = jnp.broadcast_to(known, logits.shape), jnp.zeros_like(length)
    if repeats is not None:
        odds = repeats.at(job.sampling.temperature)
        repeated, count = find_repeat(text, length, odds.longest)
        logits = weigh_repeat(logits, repeated, count, exits, vocabulary, odds)
        ids = ids if vocabulary is None else jnp.concatenate([ids, repeated[:, None]], axis=1)
    return logits, ids, repeated


def _draw(weights: Array, ids: Array, index: Array, state: DecodeState, job: Job) -> Array:
    """Draw draft token `index` from `weights [B, Q]`, whose columns stand for target `ids`: a column, `[B]`."""
    if job.policy.payload.scheme != "seeded":
        return next_token(weights, keys.round_uniforms(state.key, state.account.round, keys.Use.DRAFT + index, (2,)))
    positions = (state.length + index)[:, None]
    noise = keys.position_noise(state.key, positions, job.target.config.valid_outputs)[:, 0]
    # The noise is the target id's, also under a vocabulary of the draft's own.
    noise = noise if job.draft.vocabulary is None else jnp.take_along_axis(noise, ids, axis=1)
    return gelato_kernels.gumbel_argmax(weights, noise)


def _descend(loop: _Loop, decoder: Decoder, plan: RoundPlan, job: Job) -> tuple[Array, Cache, Array, Array]:
    """Compute layers, segment by segment, while some drafting row wants to go deeper.

    Never `vmap` over rows here: a vmapped `cond` becomes a select and runs every segment.

    Returns:
        Normed state at each row's exit `[B, 1, D]`, fresh keys and values of all layers, the exit
        index `[B]` int32, and the last state computed (to order cache writes behind reads).
    """
    config, angles = decoder.config, decoder.angles(loop.length, 1)
    x = decoder.embed_tokens(loop.token[:, None])
    x, fresh = decoder.run(x, angles, loop.cache, loop.length, 0, config.exits[0])
    moving = loop.drafting
    normed = decoder.exit_norm(0)(x)
    exits = jnp.zeros_like(loop.length)
    for index, (start, stop) in enumerate(zip(config.exits, config.exits[1:], strict=False)):
        moving = moving & _wants_deeper(index, normed, loop, plan, decoder, job)

        def compute(x: Array, moving: Array, start: int = start, stop: int = stop) -> tuple[Array, Cache]:
            return decoder.run(x, angles, loop.cache, loop.length, start, stop, moving[:, None])

        def skip(x: Array, moving: Array, start: int = start, stop: int = stop) -> tuple[Array, Cache]:
            del moving
            return x, decoder.skip(x, angles, start, stop)

        x, segment = lax.cond(moving.any(), compute, skip, x, moving)
        fresh = (*fresh, *segment)
        normed = jnp.where(moving[:, None, None], decoder.exit_norm(index + 1)(x), normed)
        exits = exits + moving
    return normed, fresh, exits, x.max()


def _wants_deeper(index: int, normed: Array, loop: _Loop, plan: RoundPlan, decoder: Decoder, job: Job) -> Array:
    """Ask the depth exit, row by row, whether to go beyond exit `index`: `[B]` bool."""
    if decoder.config.exit_probes:
        entropy = decoder.exit_probes[index](normed[:, 0])
    else:
        entropy = decoder.head_stats(normed[:, 0]).entropy
    work = job.draft.work[index + 1] - job.draft.work[index]
    device = job.system.device

    def ask(entropy: Array, survival: Array, plan: RoundPlan) -> Array:
        return job.policy.depth_exit.deeper(
            DepthSignal(
                entropy=entropy,
                exit=jnp.asarray(index, jnp.int32),
                survival=survival,
                plan=plan,
                segment_s=work * device.token_s,
                segment_j=work * device.token_j,
                calibration=job.calibration,
            )
        )

    return jax.vmap(ask)(entropy, loop.survival, plan)
