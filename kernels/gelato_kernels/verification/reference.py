"""Textbook form of verification: every softmax and every residual stored, then the position is read off."""

import jax
import jax.numpy as jnp
from jax import Array

from gelato_kernels.sampling.reference import inverse_cdf
from gelato_kernels.verification.records import ResidualSample, Support, Verification, VerifyUniforms


def _softmax(logits: Array) -> Array:
    # Through the logarithm, so that equal distributions cancel exactly in p - q even where products and sums are fused.
    return jnp.exp(jax.nn.log_softmax(logits, axis=-1))


def accept(
    target_logits: Array, draft_tokens: Array, draft_log_prob: Array, draft_length: Array, uniforms: Array
) -> Array:
    """num_accepted [B] int32; see the API."""
    drafted = draft_tokens.shape[1]
    p = _softmax(target_logits)[:, :drafted]
    p_token = jnp.take_along_axis(p, draft_tokens[..., None], axis=-1)[..., 0]
    possible = jnp.take_along_axis(target_logits[:, :drafted], draft_tokens[..., None], axis=-1)[..., 0] > -jnp.inf
    accepted = (uniforms * jnp.exp(draft_log_prob) < p_token) & possible & (jnp.arange(drafted) < draft_length[:, None])
    first_rejected = jnp.argmin(jnp.pad(accepted, ((0, 0), (0, 1))), axis=1)
    return first_rejected.astype(jnp.int32)


def _residual(p: Array, q: Array) -> tuple[Array, Array]:
    residual = jnp.maximum(p - q, 0.0)
    mass = jnp.sum(residual, axis=-1)
    return jnp.where(mass[..., None] > 0, residual, p), mass


def sample_residual(target_logits: Array, draft_logits: Array, is_bonus: Array, uniforms: Array) -> ResidualSample:
    """ResidualSample; see the API."""
    q = jnp.where(is_bonus[:, None], 0.0, _softmax(draft_logits))
    weights, mass = _residual(_softmax(target_logits), q)
    return ResidualSample(inverse_cdf(weights, uniforms), jnp.where(is_bonus, 1.0, mass))


def _probabilities(
    tokens: Array, vocab: int, logits: Array | None, probs: Array | None, support: Support | None
) -> Array:
    """Distributions [B, K, V] of the draft, of whichever form was given."""
    if logits is not None:
        return _softmax(logits)
    if probs is not None:
        return probs
    if support is not None:
        return jnp.sum(jax.nn.one_hot(support.ids, vocab) * support.probs[..., None], axis=-2)
    return jax.nn.one_hot(tokens, vocab)


def speculative_verify(
    target_logits: Array,
    draft_tokens: Array,
    draft_length: Array,
    uniforms: VerifyUniforms,
    draft_logits: Array | None,
    draft_probs: Array | None,
    draft_support: Support | None,
) -> Verification:
    """Verification; see the API."""
    rows, drafted = draft_tokens.shape
    vocab = target_logits.shape[-1]
    p = _softmax(target_logits)
    q = _probabilities(draft_tokens, vocab, draft_logits, draft_probs, draft_support)
    q_token = jnp.take_along_axis(q, draft_tokens[..., None], axis=-1)[..., 0]
    stop = accept(target_logits, draft_tokens, jnp.log(q_token), draft_length, uniforms.accept)
    is_bonus = stop == draft_length
    beyond = jnp.arange(drafted + 1)[:, None] >= draft_length[:, None, None]
    q = jnp.where(beyond, 0.0, jnp.concatenate([q, jnp.zeros((rows, 1, vocab))], axis=1))
    weights, mass = _residual(p, q)
    every_row = jnp.arange(rows)
    token = inverse_cdf(weights[every_row, stop], uniforms.token)
    return Verification(stop, token, is_bonus, jnp.where(is_bonus, 1.0, mass[every_row, stop]))
