"""Step 7 of a round: the rules learn from what was observed, the link's clock goes on, the totals are summed."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from gelato_jax.decoding.cost import observe_prompt
from gelato_jax.decoding.plan import drafts_at_once
from gelato_jax.decoding.records import Committed, Effort, RowState, Session, Setup
from gelato_jax.decoding.totals import Averages, Totals
from gelato_jax.types import Observation, RoundPlan


def update(
    row: RowState, plan: RoundPlan, seen: Observation, effort: Effort, committed: Committed, *, setup: Setup
) -> tuple[RowState, Observation]:
    """The row after a round, and the observation with the queue after it.

    Args:
        row: before the round.
        plan: what was decided.
        seen: what was observed.
        effort: whose length exit's state is kept.
        committed: what the edge has not seen of it.
        setup: rules and world.
    """
    policy, session = setup.policy, row.session
    controller = policy.controller.update(session.controller, seen)
    seen = dataclasses.replace(seen, queue_j=policy.controller.queue(controller))
    after = RowState(
        round=row.round + seen.passes,
        pending=committed.pending,
        lag=_lag(row, seen) if setup.reads else row.lag,
        unread=row.unread & (seen.drafted == 0),
        remaining=row.remaining - seen.tokens,
        coming=_coming(row, plan, seen),
        link=setup.system.link.advance(row.link, seen.time_s),
        session=Session(
            controller=controller,
            length_exit=policy.length_exit.update(effort.length_exit, seen),
            averages=session.averages.add(seen),
        ),
        totals=row.totals.add(seen),
    )
    return after, seen


def _lag(row: RowState, seen: Observation) -> Array:
    """What the draft has not seen after a round: drafting feeds it all but a bonus token's predecessor."""
    return jnp.where(seen.drafted > 0, jnp.maximum(seen.tokens - seen.drafted, 0), row.lag + seen.tokens)


def _coming(row: RowState, plan: RoundPlan, seen: Observation) -> Array:
    """What a round leaves of the stream that was asked for."""
    left = jnp.where(seen.drafted > 0, 0, jnp.maximum(plan.stream_length - seen.passes, 0))
    return jnp.where(seen.active, left, row.coming)


def fresh_session(setup: Setup) -> Session:
    """The session of a row that never asked before."""
    return Session(
        controller=setup.policy.controller.init(setup.calibration),
        length_exit=setup.policy.length_exit.init(),
        averages=Averages.start(setup.work[-1]),
    )


def open_row(session: Session, link_key: Array, *, setup: Setup) -> RowState:
    """A row before its first prompt."""
    return RowState(
        round=jnp.ones((), jnp.int32),  # the first token takes the uniforms of round 0
        pending=jnp.zeros((), jnp.int32),
        lag=jnp.zeros((), jnp.int32),
        unread=jnp.zeros((), jnp.bool_),
        remaining=jnp.zeros((), jnp.int32),
        coming=jnp.zeros((), jnp.int32),
        link=setup.system.link.init(link_key),
        session=session,
        totals=Totals.zero(setup.work.shape[0]),
    )


def read_prompt(
    row: RowState,
    prompt_tokens: Array,
    new_tokens: Array,
    *,
    setup: Setup,
    max_draft_length: int,
    believed: Setup | None = None,
) -> tuple[RowState, Array]:
    """The row after a prompt: its seconds and joules enter the queue, as those of rounds do.

    Args:
        row: before the prompt.
        prompt_tokens: [] int32.
        new_tokens: [] int32 that may follow it, its first token included.
        setup: rules, and the world as it is.
        max_draft_length: G.
        believed: the world as the device believes it to be; as it is if not given.

    Returns:
        The row, and [] bool whether the draft read the prompt: a device that would not draft does not. If it drafts
        later on, the prompt is among the tokens that it catches up with. A draft without a cache has nothing to read.
    """
    channel = setup.system.link.observe(row.link)
    unread = jnp.full((), setup.reads)
    fresh = {"coming": jnp.zeros((), jnp.int32), "remaining": new_tokens - 1}
    row = dataclasses.replace(row, lag=prompt_tokens * setup.reads, unread=unread, **fresh)
    planned = drafts_at_once(row, channel, setup=believed or setup, max_draft_length=max_draft_length) & setup.reads
    seen = observe_prompt(channel, prompt_tokens, planned, setup=setup)
    session = dataclasses.replace(row.session, controller=setup.policy.controller.charge(row.session.controller, seen))
    link = setup.system.link.advance(row.link, seen.time_s)
    lag = jnp.where(planned, 0, row.lag)
    totals = row.totals.add_prompt(seen)
    unread = unread & ~planned
    return dataclasses.replace(row, lag=lag, unread=unread, link=link, session=session, totals=totals), planned
