"""Step 2 of a round: the device drafts.

The draft's cache is fed what it has not seen, then tokens are drafted one by one. Entropy ends both
loops: the depth exit looks at an exit's entropy before the token is drawn and stops computing
layers; the length exit looks at the token's entropy and stops drafting, as does a drafted end of sequence. A
computed token is always sent: whether a token is sent never depends on what its draw showed.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_jax.control import DepthSignal, acceptance_at
from gelato_jax.control.base import where_active
from gelato_jax.decoding.catch_up import catch_up, step_window, tokens_from
from gelato_jax.decoding.cost import draft_signal
from gelato_jax.decoding.drawing import Drawn, draw
from gelato_jax.decoding.lookup import look_up
from gelato_jax.decoding.plan import most_drafts
from gelato_jax.decoding.records import DeviceState, Draft, Drafted, Effort, Job, Lookup, RowState, Shapes, with_weights
from gelato_jax.models import Cache, Decoder, Fresh, write
from gelato_jax.payloads import Proposal, Uplink
from gelato_jax.system import Channel
from gelato_jax.types import RoundPlan, record


@record
class _Loop:
    """What the drafting loop carries."""

    index: Array  # [] int32 tokens drafted so far by the rows still drafting
    drafting: Array  # [B] bool
    text: Array  # [B, S] int32 committed tokens, then drafted ones; the last is the next input
    survival: Array  # [B] chance that every token so far is accepted
    length_exit: object
    draft: Draft


def draft(
    state: DeviceState, row: RowState, plan: RoundPlan, channel: Channel, job: Job, shapes: Shapes
) -> tuple[Drafted, Uplink]:
    """Draft up to G tokens for every row, and write the message for the edge.

    Args:
        state: before the round.
        row: the same rows' counters and session.
        plan: each row's budget and prices, leaves `[B]`.
        channel: each row's link, leaves `[B]`.
        job: draft model, policy, system.
        shapes: static sizes.

    Returns:
        The effort, with a `Draft` for `commit`; and the message.
    """
    by = look_up if isinstance(job.draft, Lookup) else roll_out
    made, length_exit = by(state, row, plan, channel, job, shapes)
    effort = Effort(
        length=made.proposal.length,
        work=made.work,
        support=made.support,
        exits=_exit_counts(made, job),
        caught_up=made.caught_up,
        length_exit=length_exit,
    )
    uplink = job.policy.payload.uplink(made.proposal, ~state.done, plan.stream_length, state.pending)
    return Drafted(effort=effort, own=made), uplink


def roll_out(
    state: DeviceState, row: RowState, plan: RoundPlan, channel: Channel, job: Job, shapes: Shapes
) -> tuple[Draft, object]:
    """The drafting of a model. Arguments as `draft`; returns the draft, and the length exit's state."""
    decoder, exit_rule = with_weights(job.draft).model.bind(), job.policy.length_exit
    size = shapes.max_draft_length
    exit_state = jax.vmap(exit_rule.start)(row.session.length_exit, plan)
    if size == 0:
        return Draft.nothing(job.draft, size, state.cache, state.cache_length), exit_state
    most = partial(most_drafts, policy=job.policy, max_draft_length=size)
    limit = jax.vmap(most)(plan, jnp.where(state.done, 0, state.limit - state.length))
    drafting = limit > 0
    loop = _Loop(
        index=jnp.zeros((), jnp.int32),
        drafting=drafting,
        text=state.tokens,
        survival=jnp.ones_like(plan.token_value),
        length_exit=exit_state,
        draft=dataclasses.replace(
            Draft.nothing(job.draft, size, *catch_up(decoder, state, drafting)),
            caught_up=jnp.where(drafting, state.length - 1 - state.cache_length, 0),
        ),
    )
    loop = lax.while_loop(
        lambda loop: (loop.index < size) & loop.drafting.any(),
        lambda loop: _draft_token(loop, decoder, state, row, plan, channel, limit, job),
        loop,
    )
    return loop.draft, loop.length_exit


def _exit_counts(made: Draft, job: Job) -> Array:
    """Drafted tokens by exit, `[B, X]` int32."""
    sent = jnp.arange(made.exit.shape[1]) < made.proposal.length[:, None]
    taken = made.exit[..., None] == jnp.arange(job.draft.work.shape[0])
    return (taken & sent[..., None]).sum(axis=1)


def _draft_token(
    loop: _Loop,
    decoder: Decoder,
    state: DeviceState,
    row: RowState,
    plan: RoundPlan,
    channel: Channel,
    limit: Array,
    job: Job,
) -> _Loop:
    """Draft one token for every row that is still drafting."""
    made, sent = loop.draft, loop.drafting
    length = state.length + loop.index
    fed = jnp.where(sent, length - made.cache_length, 1)  # 1 to `step_window`
    normed, fresh, exits, after = _descend(loop, fed, decoder, plan, job)
    cache = write(made.cache, fresh, made.cache_length, after=after)
    drawn = draw(
        decoder.head_logits(normed, sent.astype(jnp.int32))[:, 0], exits, loop.index, loop.text, state, row, job
    )
    acceptance = jax.vmap(acceptance_at, (None, 0, 0, 0))(job.calibration, drawn.entropy, exits, plan.acceptance_level)
    signal = jax.vmap(draft_signal, (0, 0, 0, None, 0, 0, 0, None))(
        drawn.entropy, drawn.max_probability, exits, loop.index, drawn.support, plan, channel, job.setup
    )
    length_exit, stop = jax.vmap(job.policy.length_exit.step)(loop.length_exit, signal)
    stop = stop | drawn.fault | jnp.isin(drawn.token, job.eos_ids)  # nothing would be kept after an end of sequence
    return _Loop(
        index=loop.index + 1,
        drafting=sent & ~stop & (loop.index + 1 < limit),
        text=loop.text.at[jnp.arange(length.shape[0]), length].set(drawn.token, mode="drop"),
        survival=loop.survival * acceptance,
        length_exit=jax.vmap(where_active)(sent, length_exit, loop.length_exit),
        draft=_appended(made, drawn, loop.index, sent, fed, cache, job.draft.work),
    )


def _appended(made: Draft, drawn: Drawn, index: Array, sent: Array, fed: Array, cache: Cache, work: Array) -> Draft:
    """The draft with one more token, at `index`, of the rows that send it, `sent [B]`; their caches were `fed [B]`."""

    def put(old: Array, new: Array) -> Array:
        return old.at[:, index].set(new)

    return Draft(
        proposal=Proposal(
            tokens=put(made.proposal.tokens, drawn.token),
            length=made.proposal.length + sent,
            log_prob=put(made.proposal.log_prob, drawn.log_prob),
            log_weights=put(made.proposal.log_weights, drawn.log_weights),
            repeated=put(made.proposal.repeated, drawn.repeated),
        ),
        entropy=put(made.entropy, jnp.where(sent, drawn.entropy, 0.0)),
        max_probability=put(made.max_probability, drawn.max_probability),
        exit=put(made.exit, drawn.exit),
        work=made.work + jnp.where(sent, work[drawn.exit], 0.0),
        support=made.support + jnp.where(sent, drawn.support, 0.0),
        fault=made.fault | (sent & drawn.fault),
        caught_up=made.caught_up,
        cache=cache,
        cache_length=made.cache_length + jnp.where(sent, fed, 0),
    )


def _descend(loop: _Loop, fed: Array, decoder: Decoder, plan: RoundPlan, job: Job) -> tuple[Array, Fresh, Array, Array]:
    """Compute layers, segment by segment, while some drafting row wants to go deeper.

    Each row is fed the `fed [B]` tokens behind its cache, and drafts from the last of them.

    Never `vmap` over rows here: a vmapped `cond` becomes a select and runs every segment.

    Returns:
        Normed state at each row's exit `[B, 1, D]`, fresh keys and values of all layers, the exit
        index `[B]` int32, and the last state computed (to order cache writes after reads).
    """
    cache, lengths = loop.draft.cache, loop.draft.cache_length
    config, window = decoder.config, step_window(decoder)
    angles, valid = decoder.angles(lengths, window), jnp.where(loop.drafting, fed, 0) if window > 1 else None
    x = decoder.embed_tokens(tokens_from(loop.text, lengths, window))
    x, fresh = decoder.run(x, angles, cache, lengths, 0, config.exits[0], valid=valid)

    def last(x: Array) -> Array:
        return x if window == 1 else jnp.take_along_axis(x, fed[:, None, None] - 1, axis=1)

    moving = loop.drafting
    normed = decoder.exit_norm(0)(last(x))
    exits = jnp.zeros_like(lengths)
    for index, (start, stop) in enumerate(zip(config.exits, config.exits[1:], strict=False)):
        moving = moving & _wants_deeper(index, normed, loop, plan, decoder, job)

        def compute(x: Array, moving: Array, start: int = start, stop: int = stop) -> tuple[Array, Fresh]:
            return decoder.run(x, angles, cache, lengths, start, stop, moving[:, None], valid)

        def skip(x: Array, moving: Array, start: int = start, stop: int = stop) -> tuple[Array, Fresh]:
            del moving
            return x, decoder.skip(x, angles, start, stop, valid)

        x, segment = lax.cond(moving.any(), compute, skip, x, moving)
        fresh = (*fresh, *segment)
        normed = jnp.where(moving[:, None, None], decoder.exit_norm(index + 1)(last(x)), normed)
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
