"""Text that repeats itself: what followed the last tokens when they were there before.

A small draft copies badly, and greedy text of a small target repeats itself a lot. So the draft's distribution
counts evidence that costs no weights: the token after the longest and latest repeat of the last few
tokens (prompt lookup, arXiv 2304.04487 and others) gets other odds, fitted with the draft's
checkpoint. The result is the q that is sampled from, sent and verified: the output's distribution stays.
"""

import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_jax.types import RepeatOdds

_CERTAIN = 1e-6  # chances nearer to 0 or 1 than this count as this: odds stay finite


def find_repeat(tokens: Array, length: Array, longest: int) -> tuple[Array, Array]:
    """The token after the longest repeat of each row's last tokens, the latest one of several.

    Args:
        tokens: `[B, S]` int32; what is at or after `length` is not read.
        length: `[B]` int32, at least 1.
        longest: M, tokens compared at most.

    Returns:
        `[B]` int32 token, and `[B]` int32 how many tokens repeat, 0..M; without a repeat the token means nothing.
    """
    slot, count = find_slot(tokens, length, longest)
    return jnp.take_along_axis(tokens, slot[:, None], axis=1)[:, 0], count


def find_slot(tokens: Array, length: Array, longest: int) -> tuple[Array, Array]:
    """As `find_repeat`, with the token's slot `[B]` in place of it."""
    slots = jnp.arange(tokens.shape[1])
    matching = slots < length[:, None]  # a slot whose predecessors are the last tokens
    matched = jnp.zeros(tokens.shape, jnp.int32)
    for back in range(1, longest + 1):
        last = jnp.take_along_axis(tokens, length[:, None] - back, axis=1, mode="clip")
        matching = matching & (jnp.roll(tokens, back, axis=1) == last) & (slots >= back)
        matched = matched + matching
    best = jnp.max(matched * tokens.shape[1] + slots, axis=1)  # longest first, then latest
    return best % tokens.shape[1], best // tokens.shape[1]


def weigh_repeat(
    logits: Array, token: Array, count: Array, exits: Array, vocabulary: Array | None, odds: RepeatOdds
) -> Array:
    """Logits in which a repeated token has the odds that `odds` gives it.

    With z the log odds of the token under `logits`, they become slope * z + offset; the other
    tokens keep their proportions. A token that the head lacks gets one more column, and the chance
    `unseen` in it; the column is -inf otherwise.

    Args:
        logits: `[B, U]`.
        token: `[B]` target id from `find_repeat`.
        count: `[B]` tokens that repeat; 0 changes nothing.
        exits: `[B]` int32 exit at which the logits were read.
        vocabulary: `[U]` ids of the columns, ascending; None: all, and there is no further column.
        odds: fitted, of one distribution.

    Returns:
        `[B, U]`, or `[B, U + 1]` with a vocabulary.
    """
    column, known = column_of(token, vocabulary)
    repeats = count > 0
    index = jnp.maximum(count - 1, 0)
    value = jnp.take_along_axis(logits, column[:, None], axis=1)[:, 0]
    total = gelato_kernels.entropy(logits).logsumexp
    chance = jnp.clip(jnp.exp(value - total), _CERTAIN, 1 - _CERTAIN)
    others = total + jnp.log1p(-chance)
    weighed = others + odds.slope[exits, index] * _log_odds(chance) + odds.offset[exits, index]
    rows = jnp.arange(logits.shape[0])
    logits = logits.at[rows, column].set(jnp.where(repeats & known, weighed, value))
    if vocabulary is None:
        return logits
    unseen = total + _log_odds(jnp.clip(odds.unseen[index], _CERTAIN, 1 - _CERTAIN))
    return jnp.concatenate([logits, jnp.where(repeats & ~known, unseen, -jnp.inf)[:, None]], axis=1)


def column_of(token: Array, vocabulary: Array | None) -> tuple[Array, Array]:
    """Column of a target id in a head, `[B]` int32, and whether the head has it."""
    if vocabulary is None:
        return token, jnp.ones(token.shape, bool)
    column = jnp.minimum(jnp.searchsorted(vocabulary, token), vocabulary.shape[0] - 1)
    return column, vocabulary[column] == token


def _log_odds(chance: Array) -> Array:
    return jnp.log(chance) - jnp.log1p(-chance)
