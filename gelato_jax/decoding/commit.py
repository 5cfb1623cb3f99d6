"""Step 5 of a round: tokens and lengths forward, caches back by length, end of sequence."""

import jax.numpy as jnp
from jax import Array

from gelato_jax.decoding.records import DecodeState, Draft
from gelato_jax.types import record
from gelato_kernels import Verification


@record
class Commit:
    """What a round adds to the text."""

    tokens: Array  # [B, S] the buffer with the new tokens
    new_tokens: Array  # [B, G + 1] int32 the round's tokens; beyond `count` meaningless
    count: Array  # [B] int32 tokens emitted: 0 for a finished row
    length: Array  # [B] int32
    done: Array  # [B] bool


def commit(state: DecodeState, draft: Draft, verification: Verification, eos_ids: Array) -> Commit:
    """Append the accepted drafts and the next token, up to an end-of-sequence token or the limit.

    Args:
        state: before the round.
        draft: what was sent.
        verification: what was accepted.
        eos_ids: `[E]` int32.
    """
    accepted = verification.num_accepted[:, None]
    size = draft.tokens.shape[1]
    steps = jnp.arange(size + 1)
    drafted = jnp.pad(draft.tokens, [(0, 0), (0, 1)])
    new_tokens = jnp.where(steps == accepted, verification.next_token[:, None], drafted)
    ends = jnp.isin(new_tokens, eos_ids) & (steps <= accepted)
    until_end = jnp.where(ends.any(axis=1), jnp.argmax(ends, axis=1) + 1, size + 1)
    count = jnp.minimum(jnp.minimum(verification.num_accepted + 1, until_end), state.limit - state.length)
    count = jnp.where(state.done, 0, count)
    length = state.length + count
    done = state.done | (ends.any(axis=1) & (count == until_end)) | (length >= state.limit)
    return Commit(
        tokens=append(state.tokens, new_tokens, state.length, count),
        new_tokens=new_tokens,
        count=count,
        length=length,
        done=done,
    )


def append(tokens: Array, new_tokens: Array, length: Array, count: Array) -> Array:
    """Write the first `count [B]` of `new_tokens [B, T]` behind each row's `length [B]`."""
    steps = jnp.arange(new_tokens.shape[1])
    slots = jnp.where(steps < count[:, None], length[:, None] + steps, tokens.shape[1])
    return tokens.at[jnp.arange(tokens.shape[0])[:, None], slots].set(new_tokens, mode="drop")
