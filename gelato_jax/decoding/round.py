"""One round of device-edge speculative decoding, in a straight line. Only this file knows the order.

plan -> draft -> verify -> commit -> settle (cost the round, teach the rules)
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.control import acceptance_at
from gelato_jax.decoding import accounting
from gelato_jax.decoding.commit import Commit, commit
from gelato_jax.decoding.draft import draft
from gelato_jax.decoding.records import DecodeState, Draft, Job, RoundInfo, Shapes
from gelato_jax.decoding.verify import verify
from gelato_jax.types import RoundOutcome, RoundPlan


def decode_round(state: DecodeState, job: Job, shapes: Shapes) -> tuple[DecodeState, RoundInfo]:
    """Run one round for every row; a finished row stands still.

    Args:
        state: what the last round left.
        job: models, policy, physical world, law.
        shapes: static sizes.

    Returns:
        The next state and the round's report.
    """
    account, terms = state.account, job.terms
    channel = jax.vmap(job.system.link.observe)(account.link)
    decide = partial(accounting.plan, terms=terms, max_draft_length=shapes.max_draft_length)
    plan = jax.vmap(decide)(account, channel)
    drafted, draft_cache, draft_length, length_exit = draft(state, plan, channel, job, shapes)
    verification, target_cache, candidates = verify(state, drafted, job, shapes)
    committed = commit(state, drafted, verification, job.eos_ids)
    happening = _happening(state, drafted, verification, candidates, committed, job)
    settle = partial(accounting.settle, terms=terms)
    settled, outcome = jax.vmap(settle)(account, happening, channel, length_exit)
    next_state = DecodeState(
        tokens=committed.tokens,
        length=committed.length,
        limit=state.limit,
        done=committed.done,
        draft_length=jnp.minimum(draft_length, committed.length - 1),
        target_cache=target_cache,
        draft_cache=draft_cache,
        key=state.key,
        account=settled,
    )
    queue = jax.vmap(job.policy.controller.queue)(settled.memory.controller)
    return next_state, _info(committed, drafted, outcome, plan, queue)


def _happening(
    state: DecodeState,
    drafted: Draft,
    verification: gelato_kernels.Verification,
    candidates: Array,
    committed: Commit,
    job: Job,
) -> accounting.Happening:
    """The round as its books see it, leaves `[B]`."""
    return accounting.Happening(
        drafted=drafted.length,
        accepted=verification.num_accepted,
        predicted=_predicted(drafted, verification, job),
        tokens=committed.count,
        rejected=~verification.is_bonus,
        candidates=candidates,
        caught_up=drafted.caught_up,
        work=drafted.work,
        support=drafted.support,
        exits=_exit_counts(drafted, job),
        active=~state.done,
    )


def _predicted(drafted: Draft, verification: gelato_kernels.Verification, job: Job) -> Array:
    """What the calibration says of the drafts that were tested, summed, `[B]`: those accepted, and the one rejected."""
    says = jax.vmap(jax.vmap(acceptance_at, (None, 0, 0, None)), (None, 0, 0, None))
    tested = jnp.arange(drafted.tokens.shape[1]) < (verification.num_accepted + ~verification.is_bonus)[:, None]
    return jnp.where(tested, says(job.calibration, drafted.entropy, drafted.exit, 1.0), 0.0).sum(axis=1)


def _exit_counts(drafted: Draft, job: Job) -> Array:
    """Drafted tokens by exit, `[B, X]` int32."""
    sent = jnp.arange(drafted.tokens.shape[1]) < drafted.length[:, None]
    taken = drafted.exit[..., None] == jnp.arange(job.draft.work.shape[0])
    return (taken & sent[..., None]).sum(axis=1)


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
