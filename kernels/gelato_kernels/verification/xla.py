"""Two-level form of verification for XLA: no softmax is stored, and one row pair is looked at twice.

The first sweep leaves maximum and block sums of every row; they give p(x) and q(x) of the draft
tokens, hence the position where verification stops. Only that position's rows are swept again for
the block masses of the residual, and only the chosen block a third time.
"""

import jax
import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import RowSums, draw, pick, row_sums, split, take_block
from gelato_kernels.verification.records import ResidualSample, Verification, VerifyUniforms


def prefix_length(stands: Array, draft_length: Array) -> Array:
    """Length of the leading run of True in `stands` [B, K], cut at draft_length [B]: [B] int32."""
    inside = jnp.arange(stands.shape[1]) < draft_length[:, None]
    return jnp.sum(jnp.cumprod((stands & inside).astype(jnp.int32), axis=1), axis=1)


def _token_logits(logits: Array, tokens: Array) -> Array:
    """Logit of each token: [B, K, V] and [B, K] give [B, K]; an id outside the vocabulary gives nan, never accepted."""
    return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]


def _stands(token_logit: Array, sums: RowSums, draft_prob: Array, uniforms: Array) -> Array:
    target_prob = jnp.exp(token_logit - sums.maximum) / sums.total
    return (uniforms * draft_prob < target_prob) & (token_logit > -jnp.inf)


def accept(
    target_logits: Array, draft_tokens: Array, draft_log_prob: Array, draft_length: Array, uniforms: Array
) -> Array:
    """num_accepted [B] int32; see the API."""
    target_logits = target_logits[:, : draft_tokens.shape[1]]
    sums = row_sums(split(target_logits, -jnp.inf))
    token_logit = _token_logits(target_logits, draft_tokens)
    return prefix_length(_stands(token_logit, sums, jnp.exp(draft_log_prob), uniforms), draft_length)


def sample_residual(target_logits: Array, draft_logits: Array, is_bonus: Array, uniforms: Array) -> ResidualSample:
    """ResidualSample; see the API."""
    target, draft = split(target_logits, -jnp.inf), split(draft_logits, -jnp.inf)
    return _draw_residual(target, row_sums(target), draft, row_sums(draft), is_bonus, uniforms)


def _draw_residual(
    target: Array, target_sums: RowSums, draft: Array, draft_sums: RowSums, is_bonus: Array, uniforms: Array
) -> ResidualSample:
    """Draw from max(p - q, 0) of blocks [B, blocks, size], given the rows' sums."""

    def residual(x: Array, y: Array) -> Array:
        # exp(d - log S), not exp(d) / S: a product may be fused with the subtraction, unrounded, and equal laws would
        # then leave a residual of rounding errors.
        wide = (slice(None), *[None] * (x.ndim - 1))
        p = jnp.exp(x - target_sums.maximum[wide] - jnp.log(target_sums.total)[wide])
        q = jnp.exp(y - draft_sums.maximum[wide] - jnp.log(draft_sums.total)[wide])
        return jnp.maximum(p - jnp.where(is_bonus[wide], 0.0, q), 0.0)

    block_masses = jnp.sum(residual(target, draft), axis=-1)
    mass = jnp.sum(block_masses, axis=-1)
    block = pick(jnp.where(mass[:, None] > 0, block_masses, target_sums.block_sums), uniforms[:, 0])
    target_block = take_block(target, block)
    inside = residual(target_block, take_block(draft, block))
    # The second evaluation may round otherwise than the first: a block chosen for a mass of one rounding can be empty.
    has_mass = jnp.any(inside > 0, axis=-1, keepdims=True)
    inside = jnp.where(has_mass, inside, jnp.exp(target_block - target_sums.maximum[:, None]))
    token = block * target.shape[-1] + pick(inside, uniforms[:, 1])
    return ResidualSample(token, jnp.where(is_bonus, 1.0, mass))


def _draw_without(logits: Array, sums: RowSums, token: Array, is_bonus: Array, uniforms: Array) -> ResidualSample:
    """Draw from p without `token` [B] (from p itself for a bonus): the residual of a point mass."""
    removed = (jnp.arange(logits.shape[-1]) == token[:, None]) & ~is_bonus[:, None]
    others = jnp.where(removed, -jnp.inf, logits)
    empty = jnp.max(others, axis=-1) == -jnp.inf
    blocks = split(jnp.where(empty[:, None], logits, others), -jnp.inf)
    left = row_sums(blocks)
    mass = jnp.where(empty, 0.0, jnp.exp(left.maximum - sums.maximum) * left.total / sums.total)
    return ResidualSample(draw(blocks, left, uniforms), jnp.where(is_bonus, 1.0, mass))


def _at(rows: Array, index: Array) -> Array:
    """Entry index[b] of rows[b]: [B, K, ...] and [B] give [B, ...]."""
    wide = index.reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.take_along_axis(rows, wide, axis=1, mode="clip")[:, 0]


def _rows_at(sums: RowSums, index: Array) -> RowSums:
    return jax.tree.map(lambda field: _at(field, index), sums)


def speculative_verify(
    target_logits: Array,
    draft_tokens: Array,
    draft_length: Array,
    uniforms: VerifyUniforms,
    draft_logits: Array | None,
) -> Verification:
    """Verification; see the API."""
    rows, drafted = draft_tokens.shape
    target = split(target_logits, -jnp.inf)
    sums = row_sums(target)
    if drafted == 0:
        token = draw(target[:, 0], _rows_at(sums, jnp.zeros(rows, jnp.int32)), uniforms.token)
        return Verification(jnp.zeros_like(token), token, jnp.ones(rows, bool), jnp.ones(rows, jnp.float32))
    before_bonus = jax.tree.map(lambda field: field[:, :drafted], sums)
    token_logit = _token_logits(target_logits[:, :drafted], draft_tokens)
    if draft_logits is None:
        stop = prefix_length(_stands(token_logit, before_bonus, jnp.ones(()), uniforms.accept), draft_length)
        is_bonus = stop == draft_length
        stop_token = _at(draft_tokens, stop)
        drawn = _draw_without(_at(target_logits, stop), _rows_at(sums, stop), stop_token, is_bonus, uniforms.token)
        return Verification(stop, drawn.token, is_bonus, drawn.mass)
    draft = split(draft_logits, -jnp.inf)
    draft_sums = row_sums(draft)
    draft_prob = jnp.exp(_token_logits(draft_logits, draft_tokens) - draft_sums.maximum) / draft_sums.total
    stop = prefix_length(_stands(token_logit, before_bonus, draft_prob, uniforms.accept), draft_length)
    is_bonus = stop == draft_length
    drawn = _draw_residual(
        _at(target, stop), _rows_at(sums, stop), _at(draft, stop), _rows_at(draft_sums, stop), is_bonus, uniforms.token
    )
    return Verification(stop, drawn.token, is_bonus, drawn.mass)
