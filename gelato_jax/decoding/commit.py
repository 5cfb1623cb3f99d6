"""Step 5 of a round: tokens and lengths forward, caches back by length, end of sequence."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from gelato_jax.control import acceptance_at
from gelato_jax.decoding.drawing import noise
from gelato_jax.decoding.records import Committed, DeviceState, Draft, Drafted, Job, RowState
from gelato_jax.payloads import Downlink


def commit(
    state: DeviceState, row: RowState, drafted: Drafted, downlink: Downlink, ask: Callable[[], Array], job: Job
) -> tuple[DeviceState, Committed]:
    """Append the accepted drafts, or the streamed tokens, and the next one, up to an end of sequence or the limit.

    Args:
        state: before the round.
        row: the same rows' counters.
        drafted: what `draft` gave.
        downlink: the edge's answer.
        ask: fetches the target's row `[B, V]` after the accepted drafts.
        job: payload, calibration, ends.

    Returns:
        The state after the round, and what entered the text.
    """
    made: Draft = drafted.own
    proposal, payload = made.proposal, job.policy.payload
    resolved = payload.resolve(proposal, downlink, noise(state, row, job), job.draft_ids, ask)
    ahead = downlink.accepted + downlink.num_streamed  # one of them is 0
    size = proposal.tokens.shape[1]
    steps = jnp.arange(size + 1)
    first = jnp.where(downlink.num_streamed[:, None] > 0, downlink.streamed, proposal.tokens)
    new_tokens = jnp.where(steps == ahead[:, None], resolved.next_token[:, None], jnp.pad(first, [(0, 0), (0, 1)]))
    ends = jnp.isin(new_tokens, job.eos_ids) & (steps <= ahead[:, None])
    until_end = jnp.where(ends.any(axis=1), jnp.argmax(ends, axis=1) + 1, size + 1)
    fault = ~state.done & (downlink.fault | made.fault)
    stands_still = state.done | fault
    count = jnp.minimum(jnp.minimum(ahead + 1, until_end), state.limit - state.length)
    count = jnp.where(stands_still, 0, count)
    length = state.length + count
    done = stands_still | (ends.any(axis=1) & (count == until_end)) | (length >= state.limit)

    kept = jnp.minimum(downlink.accepted, count)
    # After an end or the limit nobody knows whether the edge refused: the text does not show it.
    rejected = (downlink.accepted < proposal.length) & (count == downlink.accepted + 1)
    pending = rejected & payload.draws_on_device
    after = DeviceState(
        tokens=append(state.tokens, new_tokens, state.length, count),
        length=length,
        limit=state.limit,
        done=done,
        fault=state.fault | fault,
        pending=jnp.where(pending, resolved.next_token, -1),
        cache=made.cache,
        cache_length=jnp.minimum(made.cache_length, length - 1),
        key=state.key,
    )
    committed = Committed(
        accepted=kept,
        tokens=count,
        passes=downlink.num_streamed + 1,
        rejected=rejected,
        asked=resolved.asked & ~stands_still,
        predicted=_predicted(made, kept + rejected, job),
        pending=pending.astype(jnp.int32),
        done=done,
        fault=fault,
        ids=new_tokens,
    )
    return after, committed


def _predicted(made: Draft, tested: Array, job: Job) -> Array:
    """What the calibration says of the first `tested [B]` drafts, summed, `[B]`."""
    says = jax.vmap(jax.vmap(acceptance_at, (None, 0, 0, None)), (None, 0, 0, None))
    counted = jnp.arange(made.entropy.shape[1]) < tested[:, None]
    return jnp.where(counted, says(job.calibration, made.entropy, made.exit, 1.0), 0.0).sum(axis=1)


def append(tokens: Array, new_tokens: Array, length: Array, count: Array) -> Array:
    """Write the first `count [B]` of `new_tokens [B, T]` after each row's `length [B]`."""
    steps = jnp.arange(new_tokens.shape[1])
    slots = jnp.where(steps < count[:, None], length[:, None] + steps, tokens.shape[1])
    return tokens.at[jnp.arange(tokens.shape[0])[:, None], slots].set(new_tokens, mode="drop")
