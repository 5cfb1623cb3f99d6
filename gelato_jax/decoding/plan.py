"""Step 1 of a round: what it would cost at every draft length, and what the controller makes of it.

Scalars of one row, with no model in sight: a decode maps it over its rows, a simulation over its devices.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array

from gelato_jax.decoding.records import Policy, RowState, Setup
from gelato_jax.system import Channel
from gelato_jax.types import RoundPlan


def plan(
    row: RowState, channel: Channel, outlook: Array | None = None, *, setup: Setup, max_draft_length: int
) -> RoundPlan:
    """The row's expected costs and its controller's decision. While a stream goes on there is nothing to decide.

    Args:
        row: before the round.
        channel: the link this round.
        outlook: [G] chance of each draft of the round, given the ones before it, where that is known by now.
        setup: rules and world, as the device believes them to be.
        max_draft_length: G.
    """
    session, controller = row.session, setup.policy.controller
    cost_table = setup.system.cost_table(
        channel,
        setup.policy.payload,
        setup.vocabularies,
        work=session.averages.work,
        catch_up=float(setup.reads),
        acceptance=controller.forecast(session.controller, max_draft_length, outlook),
        support=session.averages.support,
        pending=row.pending,
        lag=row.lag,
        unread=row.unread,
        remaining=row.remaining,
        stream_length=jnp.clip(row.remaining, 1, setup.policy.stream_length),
    )
    decided = controller.plan(session.controller, cost_table, outlook)
    # Where drafts were wanted and none is found, the next token may bring some: no stream.
    asked = jnp.where(decided.draft_budget > 0, 1, decided.stream_length)
    goes_on = row.coming > 0
    return dataclasses.replace(
        decided,
        draft_budget=jnp.where(goes_on, 0, decided.draft_budget),
        stream_length=jnp.where(goes_on, row.coming, asked),
    )


def most_drafts(plan: RoundPlan, left: Array, *, policy: Policy, max_draft_length: int) -> Array:
    """[] int32 drafts of a round at most, by plan and length exit; the target itself adds the last of `left` tokens."""
    return jnp.minimum(policy.length_exit.limit(plan, max_draft_length), jnp.maximum(left - 1, 0))


def drafts_at_once(row: RowState, channel: Channel, *, setup: Setup, max_draft_length: int) -> Array:
    """[] bool whether the first round would draft: only then is the prompt worth reading beforehand."""
    return plan(row, channel, setup=setup, max_draft_length=max_draft_length).draft_budget > 0
