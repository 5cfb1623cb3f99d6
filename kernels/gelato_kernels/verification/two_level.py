"""Two-level form of verification: no softmax is stored, and one row pair is looked at twice.

The first sweep leaves maximum and block sums of every row; they give p(x) and q(x) of the draft
tokens, hence the position where verification stops. Only that position's rows are swept again for
the block masses of the residual, and only the chosen block a third time.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import Scale, draw, pick, read_block, residual_weights
from gelato_kernels.sweeps.records import Sweeps
from gelato_kernels.verification.records import ResidualSample, Support, Verification, VerifyUniforms


def prefix_length(accepted: Array, draft_length: Array) -> Array:
    """Length of the leading run of True in `accepted` [B, K], cut at draft_length [B]: [B] int32."""
    inside = jnp.arange(accepted.shape[1]) < draft_length[:, None]
    return jnp.sum(jnp.cumprod((accepted & inside).astype(jnp.int32), axis=1), axis=1)


class _RowSums(NamedTuple):
    """softmax(x) = exp(x - maximum) / total."""

    maximum: Array  # [...]
    block_sums: Array  # [..., blocks] of exp(x - maximum)
    total: Array  # [...]


def _sweep(logits: Array, sweeps: Sweeps) -> _RowSums:
    seen = sweeps.statistics(logits, None)
    return _RowSums(seen.maximum, seen.block_sums, seen.total)


def _entries(rows: Array, tokens: Array) -> Array:
    """Entry of each token, float32: [B, K or more, V] and [B, K] give [B, K]; an id outside the vocabulary gives nan.

    Rows beyond K are passed over by looking at one entry: without them XLA would copy the others.
    """
    more = rows.shape[1] - tokens.shape[1]
    every = jnp.pad(tokens, ((0, 0), (0, more)))[..., None]
    return jnp.take_along_axis(rows, every, axis=-1)[:, : tokens.shape[1], 0].astype(jnp.float32)


def _before_bonus(sums: _RowSums, tokens: Array) -> _RowSums:
    """Of the rows that draft tokens [B, K] are held to."""
    return jax.tree.map(lambda field: field[:, : tokens.shape[1]], sums)


def _probability(token_logit: Array, sums: _RowSums) -> Array:
    return jnp.exp(token_logit - sums.maximum) / sums.total


def _accepted(token_logit: Array, sums: _RowSums, draft_prob: Array, uniforms: Array) -> Array:
    # A nan is never accepted: all comparisons with it are false.
    return (uniforms * draft_prob < _probability(token_logit, sums)) & (token_logit > -jnp.inf)


def _scale(sums: _RowSums) -> Scale:
    return Scale(sums.maximum, jnp.log(sums.total))


def accept(
    target_logits: Array,
    draft_tokens: Array,
    draft_log_prob: Array,
    draft_length: Array,
    uniforms: Array,
    *,
    sweeps: Sweeps,
) -> Array:
    """num_accepted [B] int32; see the API."""
    sums = _before_bonus(_sweep(target_logits, sweeps), draft_tokens)
    accepted = _accepted(_entries(target_logits, draft_tokens), sums, jnp.exp(draft_log_prob), uniforms)
    return prefix_length(accepted, draft_length)


def sample_residual(
    target_logits: Array, draft_logits: Array, is_bonus: Array, uniforms: Array, *, sweeps: Sweeps
) -> ResidualSample:
    """ResidualSample; see the API."""
    target, draft = (_sweep(logits, sweeps) for logits in (target_logits, draft_logits))
    return _draw_residual(target_logits, target, draft_logits, _scale(draft), is_bonus, uniforms, sweeps)


def _draw_residual(
    target: Array,
    target_sums: _RowSums,
    draft: Array,
    draft_scale: Scale,
    is_bonus: Array,
    uniforms: Array,
    sweeps: Sweeps,
) -> ResidualSample:
    """Draw from max(p - q, 0) of logits [B, V], given the rows' scales."""
    target_scale = _scale(target_sums)
    masses = sweeps.residual(target, draft, target_scale, draft_scale, ~is_bonus)
    mass = jnp.sum(masses, axis=-1)
    whole = is_bonus | ~(mass > 0)  # the draw is from p itself
    block = pick(jnp.where(whole[:, None], target_sums.block_sums, masses), uniforms[:, 0])
    (x, first), (y, _) = read_block(target, block), read_block(draft, block)
    inside = residual_weights(x, y, target_scale, draft_scale)
    # The second evaluation may round otherwise than the first: a block chosen for a mass of one rounding can be empty.
    whole = whole | ~jnp.any(inside > 0, axis=-1)
    inside = jnp.where(whole[:, None], jnp.exp(x - target_sums.maximum[:, None]), inside)
    return ResidualSample(first + pick(inside, uniforms[:, 1]), jnp.where(is_bonus, 1.0, mass))


def _draw_without(
    logits: Array, sums: _RowSums, token: Array, is_bonus: Array, uniforms: Array, sweeps: Sweeps
) -> ResidualSample:
    """Draw from p without `token` [B] (from p itself for a bonus): the residual of a point mass."""
    removed = (jnp.arange(logits.shape[-1]) == token[:, None]) & ~is_bonus[:, None]
    others = jnp.where(removed, -jnp.inf, logits)
    empty = jnp.max(others, axis=-1) == -jnp.inf
    others = jnp.where(empty[:, None], logits, others)
    left = _sweep(others, sweeps)
    mass = jnp.where(empty, 0.0, jnp.exp(left.maximum - sums.maximum) * left.total / sums.total)
    return ResidualSample(
        draw(partial(read_block, others), left.maximum, left.block_sums, uniforms), jnp.where(is_bonus, 1.0, mass)
    )


def _at(rows: Array, index: Array) -> Array:
    """Entry index[b] of rows[b]: [B, K, ...] and [B] give [B, ...]."""
    wide = index.reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.take_along_axis(rows, wide, axis=1, mode="clip")[:, 0]


def _rows_at(sums: _RowSums, index: Array) -> _RowSums:
    return jax.tree.map(lambda field: _at(field, index), sums)


class _Draft(NamedTuple):
    """What verification asks of a draft's distributions."""

    token_prob: Array  # [B, K] q(x) of each draft token
    row: Callable[[Array], tuple[Array, Scale]]  # log q up to a scale, [B, V], at a position [B] of each row


def _draft_of_logits(logits: Array, tokens: Array, sweeps: Sweeps) -> _Draft:
    sums = _sweep(logits, sweeps)
    token_prob = _probability(_entries(logits, tokens), sums)
    return _Draft(token_prob, lambda stop: (_at(logits, stop), _scale(_rows_at(sums, stop))))


def _draft_of_probs(probs: Array, tokens: Array) -> _Draft:
    return _Draft(_entries(probs, tokens), lambda stop: _logs(_at(probs, stop)))


def _draft_of_support(support: Support, tokens: Array, vocab: int) -> _Draft:
    """Only the row at which verification stops is ever widened to the vocabulary."""
    ids, probs = support
    token_prob = jnp.sum(jnp.where(ids == tokens[..., None], probs, 0.0), axis=-1)
    return _Draft(token_prob, lambda stop: _logs(widen(Support(_at(ids, stop), _at(probs, stop)), vocab)))


def widen(support: Support, vocab: int) -> Array:
    """Probabilities [B, V] of a support of ids and probabilities [B, M]."""
    every_row = jnp.arange(support.ids.shape[0])[:, None]
    return jnp.zeros((support.ids.shape[0], vocab)).at[every_row, support.ids].add(support.probs)


def _logs(probs: Array) -> tuple[Array, Scale]:
    zero = jnp.zeros(probs.shape[0])
    return jnp.log(probs.astype(jnp.float32)), Scale(zero, zero)


def speculative_verify(
    target_logits: Array,
    draft_tokens: Array,
    draft_length: Array,
    uniforms: VerifyUniforms,
    draft_logits: Array | None,
    draft_probs: Array | None,
    draft_support: Support | None,
    *,
    sweeps: Sweeps,
) -> Verification:
    """Verification; see the API."""
    rows, drafted = draft_tokens.shape
    sums = _sweep(target_logits, sweeps)
    if drafted == 0:
        first = _rows_at(sums, jnp.zeros(rows, jnp.int32))
        token = draw(partial(read_block, target_logits[:, 0]), first.maximum, first.block_sums, uniforms.token)
        return Verification(jnp.zeros_like(token), token, jnp.ones(rows, bool), jnp.ones(rows, jnp.float32))
    if draft_logits is not None:
        draft = _draft_of_logits(draft_logits, draft_tokens, sweeps)
    elif draft_probs is not None:
        draft = _draft_of_probs(draft_probs, draft_tokens)
    elif draft_support is not None:
        draft = _draft_of_support(draft_support, draft_tokens, target_logits.shape[-1])
    else:
        draft = None
    token_prob = jnp.ones(()) if draft is None else draft.token_prob
    entries, before_bonus = _entries(target_logits, draft_tokens), _before_bonus(sums, draft_tokens)
    accepted = _accepted(entries, before_bonus, token_prob, uniforms.accept)
    stop = prefix_length(accepted, draft_length)
    is_bonus = stop == draft_length
    target, target_sums = _at(target_logits, stop), _rows_at(sums, stop)
    if draft is None:
        drawn = _draw_without(target, target_sums, _at(draft_tokens, stop), is_bonus, uniforms.token, sweeps)
    else:
        drawn = _draw_residual(target, target_sums, *draft.row(stop), is_bonus, uniforms.token, sweeps)
    return Verification(stop, drawn.token, is_bonus, drawn.mass)
