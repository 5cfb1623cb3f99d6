"""Step 6 of a round: seconds, joules and bits of what one row did, as one observation."""

import jax.numpy as jnp
from jax import Array

from gelato_jax.control import DraftSignal
from gelato_jax.decoding.records import Committed, Effort, RowState, Setup
from gelato_jax.system import Channel
from gelato_jax.types import Observation, RoundPlan, masked


def observe(
    row: RowState,
    plan: RoundPlan,
    channel: Channel,
    effort: Effort,
    committed: Committed,
    active: Array,
    *,
    setup: Setup,
) -> Observation:
    """What a round of one row did and cost, as modelled.

    Args:
        row: before the round.
        plan: what was decided.
        channel: the link during it.
        effort: what drafting took.
        committed: what came of it.
        active: [] bool whether the row took part.
        setup: rules, and the world as it is.
    """
    payload, sizes = setup.policy.payload, setup.vocabularies
    asked = committed.asked.astype(jnp.float32)
    sends = row.coming == 0  # else the edge goes on by itself
    uplink_bits = payload.uplink_bits(
        sizes, drafted=effort.length, support=effort.support, pending=row.pending, asked=asked
    )
    uplink_bits = jnp.where(sends, uplink_bits, 0.0)
    downlink_bits = payload.downlink_bits(sizes, rejected=committed.rejected, asked=asked)
    downlink_bits = downlink_bits + payload.stream_bits(sizes, committed.passes - 1.0)
    cost = setup.system.round_cost(
        channel,
        draft_work=effort.work,
        catch_up_tokens=effort.caught_up,
        uplink_bits=uplink_bits,
        downlink_bits=downlink_bits,
        window=effort.length + 1,
        passes=committed.passes.astype(jnp.float32),
        round_trips=sends + asked,
    )
    kept = lambda value: masked(active, value)  # noqa: E731
    return Observation(
        active=active,
        budget=plan.draft_budget,
        acceptance_rate=plan.acceptance_rate,
        rejection_level=jnp.asarray(plan.rejection_level, jnp.float32),
        drafted=effort.length,
        accepted=kept(committed.accepted),
        rejected=active & committed.rejected,
        predicted=kept(committed.predicted),
        tokens=kept(committed.tokens),
        passes=kept(committed.passes),
        work=effort.work,
        support=effort.support,
        exits=effort.exits,
        caught_up=effort.caught_up,
        read_prompt=active & row.unread & (effort.length > 0),
        remaining=row.remaining,
        cost=kept(cost),
        uplink_bits=kept(uplink_bits),
        downlink_bits=kept(downlink_bits),
        uplink_bps=channel.uplink_bps,
        done=committed.done,
        fault=committed.fault,
        ids=committed.ids,
    )


def observe_prompt(channel: Channel, prompt_tokens: Array, reads: Array, *, setup: Setup) -> Observation:
    """What a prompt of one row costs: its ids go up, the edge reads it, and so does a device that `reads`.

    Args:
        channel: the link at that time.
        prompt_tokens: [] int32.
        reads: [] bool whether the draft reads it too.
        setup: rules, and the world as it is.
    """
    cost = setup.system.prefill_cost(
        channel,
        prompt_tokens=prompt_tokens,
        read_tokens=jnp.where(reads, prompt_tokens, 0),
        sizes=setup.vocabularies,
    )
    zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)
    return Observation(
        active=~no,
        drafted=zero,
        accepted=zero,
        rejected=no,
        predicted=jnp.zeros((), jnp.float32),
        tokens=zero + 1,
        caught_up=jnp.where(reads, prompt_tokens, 0),
        read_prompt=reads,
        cost=cost,
        uplink_bps=channel.uplink_bps,
    )


def draft_signal(
    entropy: Array,
    max_probability: Array,
    exit: Array,
    index: Array,
    support: Array,
    plan: RoundPlan,
    channel: Channel,
    setup: Setup,
) -> DraftSignal:
    """What the length exit may know after draft token `index`; arguments as the fields of `DraftSignal`."""
    token_s, token_j = setup.system.token_cost(
        channel,
        setup.policy.payload,
        setup.vocabularies,
        work=setup.work[exit],
        support=support,
        window=index + 2,
    )
    return DraftSignal(
        entropy=entropy,
        exit=exit,
        max_probability=max_probability,
        index=index,
        plan=plan,
        token_s=token_s,
        token_j=token_j,
        calibration=setup.calibration,
    )
