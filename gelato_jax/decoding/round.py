"""One round of device-edge speculative decoding, in a straight line. Only this file knows the order.

plan -> draft -> transmit -> verify -> commit -> cost -> update
"""

import jax
import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.decoding.commit import Commit, commit
from gelato_jax.decoding.draft import draft
from gelato_jax.decoding.records import DecodeState, Draft, Job, Memory, RoundInfo, Shapes, Totals
from gelato_jax.decoding.verify import verify
from gelato_jax.system import Channel
from gelato_jax.types import RoundCost, RoundOutcome, RoundPlan


def decode_round(state: DecodeState, job: Job, shapes: Shapes) -> tuple[DecodeState, RoundInfo]:
    """Run one round for every row; a finished row stands still.

    Args:
        state: what the last round left.
        job: models, policy, physical world, law.
        shapes: static sizes.

    Returns:
        The next state and the round's report.
    """
    channel = jax.vmap(job.system.link.observe)(state.link)
    plan = _plan(state, channel, job, shapes)
    drafted, draft_cache, draft_length, length_exit = draft(state, plan, channel, job, shapes)
    verification, target_cache, candidates = verify(state, drafted, job, shapes)
    committed = commit(state, drafted, verification, job.eos_ids)
    cost, bits = _cost(state, channel, drafted, verification, candidates, job)

    active = ~state.done
    outcome = RoundOutcome(
        drafted=drafted.length,
        accepted=jnp.where(active, verification.num_accepted, 0),
        tokens=committed.count,
        time_s=jnp.where(active, cost.time_s, 0.0),
        energy_j=jnp.where(active, cost.energy_j, 0.0),
        active=active,
    )
    controller = jax.vmap(job.policy.controller.update)(state.memory.controller, outcome)
    queue = jax.vmap(job.policy.controller.queue)(controller)
    totals = jax.vmap(_add)(state.totals, outcome, drafted, _exit_counts(drafted, job), bits, queue)
    draws_on_device = job.policy.payload.draws_on_device
    next_state = DecodeState(
        tokens=committed.tokens,
        length=committed.length,
        limit=state.limit,
        done=committed.done,
        draft_length=jnp.minimum(draft_length, committed.length - 1),
        target_cache=target_cache,
        draft_cache=draft_cache,
        key=state.key,
        round=state.round + active,
        pending_id=(active & ~verification.is_bonus & draws_on_device).astype(jnp.int32),
        link=jax.vmap(job.system.link.advance)(state.link, outcome.time_s),
        memory=Memory(controller=controller, length_exit=jax.vmap(job.policy.length_exit.update)(length_exit, outcome)),
        totals=totals,
    )
    return next_state, _info(committed, drafted, outcome, plan, queue)


def _plan(state: DecodeState, channel: Channel, job: Job, shapes: Shapes) -> RoundPlan:
    """Each row's outlook and its controller's decision."""
    # Until a token was drafted, expect full depth and a support of one.
    drafted = jnp.maximum(state.totals.drafted, 1).astype(jnp.float32)
    work = jnp.where(state.totals.drafted > 0, state.totals.work.value / drafted, 1.0)
    support = jnp.where(state.totals.drafted > 0, state.totals.support.value / drafted, 1.0)

    def plan_row(controller, channel: Channel, lag: Array, pending: Array, support: Array, work: Array) -> RoundPlan:
        outlook = job.system.outlook(
            channel,
            job.policy.payload,
            max_draft_length=shapes.max_draft_length,
            vocab_size=job.target.config.valid_outputs,
            draft_vocab_size=job.draft.num_outputs,
            work=work,
            lag=lag,
            acceptance=job.policy.controller.acceptance_rate(controller),
            support=support,
            pending_ids=pending,
        )
        return job.policy.controller.plan(controller, outlook)

    lag = state.length - 1 - state.draft_length
    return jax.vmap(plan_row)(state.memory.controller, channel, lag, state.pending_id, support, work)


def _cost(
    state: DecodeState,
    channel: Channel,
    drafted: Draft,
    verification: gelato_kernels.Verification,
    candidates: Array,
    job: Job,
) -> tuple[RoundCost, tuple[Array, Array]]:
    """Seconds and joules of the round `[B]`, and its bits up and down."""
    payload, vocab_size = job.policy.payload, job.target.config.valid_outputs
    rejected = ~verification.is_bonus
    asked_again = rejected & (candidates > payload.candidates)
    rows_sent = {"scalar": rejected, "candidates": asked_again}.get(payload.scheme, jnp.zeros_like(rejected))
    up = payload.uplink_bits(
        drafted=drafted.length,
        support_sum=drafted.support,
        vocab_size=vocab_size,
        draft_vocab_size=job.draft.num_outputs,
        pending_ids=state.pending_id,
    )
    down = payload.downlink_bits(rejected=rejected, rows_sent=rows_sent, vocab_size=vocab_size)
    cost = job.system.round_cost(
        channel,
        draft_work=drafted.work,
        catch_up_tokens=drafted.caught_up,
        uplink_bits=up,
        downlink_bits=down,
        window=drafted.length + 1,
        round_trips=1.0 + (rows_sent if payload.scheme == "candidates" else 0.0),
    )
    return cost, (jnp.where(state.done, 0.0, up), jnp.where(state.done, 0.0, down))


def _exit_counts(drafted: Draft, job: Job) -> Array:
    """Drafted tokens by exit, `[B, X]` int32."""
    sent = jnp.arange(drafted.tokens.shape[1]) < drafted.length[:, None]
    taken = drafted.exit[..., None] == jnp.arange(job.draft.work.shape[0])
    return (taken & sent[..., None]).sum(axis=1)


def _add(
    totals: Totals, outcome: RoundOutcome, drafted: Draft, exits: Array, bits: tuple[Array, Array], queue: Array
) -> Totals:
    """One row's totals after a round; a finished row adds nothing."""
    return Totals(
        rounds=totals.rounds + outcome.active,
        drafted=totals.drafted + outcome.drafted,
        accepted=totals.accepted + outcome.accepted,
        tokens=totals.tokens + outcome.tokens,
        caught_up=totals.caught_up + drafted.caught_up,
        exits=totals.exits + exits,
        work=totals.work.add(drafted.work),
        support=totals.support.add(drafted.support),
        time_s=totals.time_s.add(outcome.time_s),
        energy_j=totals.energy_j.add(outcome.energy_j),
        uplink_bits=totals.uplink_bits.add(bits[0]),
        downlink_bits=totals.downlink_bits.add(bits[1]),
        queue_j=totals.queue_j.add(jnp.where(outcome.active, queue, 0.0)),
        prefill_s=totals.prefill_s,
        prefill_j=totals.prefill_j,
    )


def _info(committed: Commit, drafted: Draft, outcome: RoundOutcome, plan: RoundPlan, queue: Array) -> RoundInfo:
    sent = jnp.arange(drafted.tokens.shape[1]) < drafted.length[:, None]
    exits = jnp.where(sent, drafted.exit, 0).sum(axis=1)
    return RoundInfo(
        tokens=committed.new_tokens,
        count=committed.count,
        drafted=outcome.drafted,
        accepted=outcome.accepted,
        budget=plan.draft_budget,
        mean_exit=exits / jnp.maximum(drafted.length, 1),
        acceptance_rate=plan.acceptance_rate,
        queue_j=queue,
        time_s=outcome.time_s,
        energy_j=outcome.energy_j,
        done=committed.done,
    )
