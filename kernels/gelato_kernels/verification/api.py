"""Verification of a drafted window: whole, and in the halves that links with small payloads need.

A draft token x ~ q is accepted with probability min(1, p(x) / q(x)); at the first rejection the next
token is drawn from norm(max(p - q, 0)); if all are accepted the bonus token is drawn from p. The
emitted tokens then have exactly the target's distribution (Leviathan et al., arXiv 2211.17192; Chen et al.,
arXiv 2302.01318). p and q are the softmax of the logits as given: scale and truncate before.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect, expect_logits
from gelato_kernels.dispatch import dispatch
from gelato_kernels.sweeps.backends import sweep_backends
from gelato_kernels.verification import reference, two_level
from gelato_kernels.verification.records import ResidualSample, Support, Verification, VerifyUniforms

ACCEPT_BACKENDS = sweep_backends(two_level.accept, reference.accept)
RESIDUAL_BACKENDS = sweep_backends(two_level.sample_residual, reference.sample_residual)
VERIFY_BACKENDS = sweep_backends(two_level.speculative_verify, reference.speculative_verify)


def accept(
    target_logits: ArrayLike,
    draft_tokens: ArrayLike,
    draft_log_prob: ArrayLike,
    draft_length: ArrayLike,
    uniforms: ArrayLike,
    *,
    implementation: str | None = None,
) -> Array:
    """Length of the accepted prefix: token i is accepted if u_i * q(x_i) < p_i(x_i), and all before it.

    Only log q(x) of each draft token is needed. A token of target probability zero (logit -inf) is
    rejected whatever u is.

    Args:
        target_logits: [B, K, V] floating; a row K (the bonus row) may follow and is ignored.
        draft_tokens: [B, K] integer.
        draft_log_prob: [B, K] floating, log q(x) in float32 of the distribution the token was drawn from.
        draft_length: [B] integer, 0..K; later tokens are never accepted.
        uniforms: [B, K].
        implementation: a backend's name or None, see the package.

    Returns:
        [B] int32, 0..draft_length.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    op = "accept"
    draft_tokens = expect(op, "draft_tokens", draft_tokens, "integer", (None, None), "[B, K]")
    rows, drafted = draft_tokens.shape
    target_logits = expect_logits(op, "target_logits", target_logits, (rows, None, None), "[B, K or K+1, V]")
    if target_logits.shape[1] not in (drafted, drafted + 1):
        raise ValueError(
            f"{op}: target_logits has {target_logits.shape[1]} rows, expected {drafted} or {drafted + 1} "
            f"for draft_tokens of shape {draft_tokens.shape}"
        )
    draft_log_prob = expect(op, "draft_log_prob", draft_log_prob, "floating", (rows, drafted), "[B, K]")
    draft_length = expect(op, "draft_length", draft_length, "integer", (rows,), "[B]")
    uniforms = expect(op, "uniforms", uniforms, "floating", (rows, drafted), "[B, K]")
    return dispatch(
        op, ACCEPT_BACKENDS, implementation, target_logits, draft_tokens, draft_log_prob, draft_length, uniforms
    )


def sample_residual(
    target_logits: ArrayLike,
    draft_logits: ArrayLike,
    is_bonus: ArrayLike,
    uniforms: ArrayLike,
    *,
    implementation: str | None = None,
) -> ResidualSample:
    """Draw from norm(max(p - q, 0)), or from p where the token is a bonus.

    Where rounding leaves no mass in the residual the token is drawn from p, and `mass` says 0.

    Args:
        target_logits: [B, V] floating, the target's row at the position after the accepted prefix.
        draft_logits: [B, V] floating, the draft's row there; ignored where `is_bonus`.
        is_bonus: [B] bool.
        uniforms: [B, 2], none of them used for acceptance.
        implementation: a backend's name or None, see the package.

    Returns:
        ResidualSample; a token of target probability zero is never drawn.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    op = "sample_residual"
    target_logits = expect_logits(op, "target_logits", target_logits, (None, None), "[B, V]")
    draft_logits = expect_logits(op, "draft_logits", draft_logits, target_logits.shape, "[B, V] of target_logits")
    is_bonus = expect(op, "is_bonus", is_bonus, "bool", target_logits.shape[:1], "[B]")
    uniforms = expect(op, "uniforms", uniforms, "floating", (target_logits.shape[0], 2), "[B, 2]")
    return dispatch(op, RESIDUAL_BACKENDS, implementation, target_logits, draft_logits, is_bonus, uniforms)


def speculative_verify(
    target_logits: ArrayLike,
    draft_tokens: ArrayLike,
    draft_length: ArrayLike,
    uniforms: VerifyUniforms,
    *,
    draft_logits: ArrayLike | None = None,
    draft_probs: ArrayLike | None = None,
    draft_support: tuple[ArrayLike, ArrayLike] | None = None,
    implementation: str | None = None,
) -> Verification:
    """Verify a drafted window by rejection sampling: `accept`, then `sample_residual` where it stopped.

    The distributions q that the draft tokens were drawn from come as logits, as probabilities or as the few
    tokens that have any. Without them each draft token is a point mass, q(x) = 1: it is accepted with
    probability p(x) and the residual is p without x. That is lossless however the token was chosen,
    and accepts less.

    Args:
        target_logits: [B, K+1, V] floating; row i is the target's distribution after i draft tokens.
        draft_tokens: [B, K] integer; K = 0 is legal and draws the token from p.
        draft_length: [B] integer, 0..K; rows beyond it are never looked at.
        uniforms: VerifyUniforms(accept [B, K], token [B, 2]).
        draft_logits: [B, K, V] floating whose softmax the draft tokens were drawn from.
        draft_probs: [B, K, V] floating, in place of logits; taken as given, so a row must sum to 1.
        draft_support: (ids, probs), both [B, K, M], in place of either; see `Support`.
        implementation: a backend's name or None, see the package.

    Returns:
        Verification.

    Raises:
        ValueError: wrong shape or dtype, several forms of the draft's distributions, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    op = "speculative_verify"
    draft_tokens = expect(op, "draft_tokens", draft_tokens, "integer", (None, None), "[B, K]")
    rows, drafted = draft_tokens.shape
    target_logits = expect_logits(op, "target_logits", target_logits, (rows, drafted + 1, None), "[B, K+1, V]")
    draft_length = expect(op, "draft_length", draft_length, "integer", (rows,), "[B]")
    noise = VerifyUniforms(
        expect(op, "uniforms.accept", uniforms.accept, "floating", (rows, drafted), "[B, K]"),
        expect(op, "uniforms.token", uniforms.token, "floating", (rows, 2), "[B, 2]"),
    )
    given = {"draft_logits": draft_logits, "draft_probs": draft_probs, "draft_support": draft_support}
    if len(names := [name for name, value in given.items() if value is not None]) > 1:
        raise ValueError(f"{op}: {' and '.join(names)} are given, expected one of them")
    shape = (rows, drafted, target_logits.shape[-1])
    if draft_logits is not None:
        draft_logits = expect_logits(op, "draft_logits", draft_logits, shape, "[B, K, V]")
    if draft_probs is not None:
        draft_probs = expect_logits(op, "draft_probs", draft_probs, shape, "[B, K, V]")
    if draft_support is not None:
        ids = expect(op, "draft_support ids", draft_support[0], "integer", (rows, drafted, None), "[B, K, M]")
        probs = expect(op, "draft_support probs", draft_support[1], "floating", ids.shape, "[B, K, M] of ids")
        draft_support = Support(ids, probs)
    distributions = (draft_logits, draft_probs, draft_support)
    return dispatch(
        op, VERIFY_BACKENDS, implementation, target_logits, draft_tokens, draft_length, noise, *distributions
    )


def match(target_tokens: ArrayLike, draft_tokens: ArrayLike, draft_length: ArrayLike) -> Verification:
    """Verify by equality: for greedy decoding, and for draws that share their noise by position.

    Args:
        target_tokens: [B, K+1] integer, what the target chooses after each number of draft tokens.
        draft_tokens: [B, K] integer.
        draft_length: [B] integer, 0..K.

    Returns:
        Verification; `num_accepted` is the length n of the matching prefix and `next_token` is
        target_tokens[n]. `residual_mass` is 1: the next token is the target's own, nothing is removed
        from its distribution.

    Raises:
        ValueError: wrong shape or dtype.
    """
    op = "match"
    draft_tokens = expect(op, "draft_tokens", draft_tokens, "integer", (None, None), "[B, K]")
    rows, drafted = draft_tokens.shape
    target_tokens = expect(op, "target_tokens", target_tokens, "integer", (rows, drafted + 1), "[B, K+1]")
    draft_length = expect(op, "draft_length", draft_length, "integer", (rows,), "[B]")
    num_accepted = two_level.prefix_length(target_tokens[:, :drafted] == draft_tokens, draft_length)
    next_token = jnp.take_along_axis(target_tokens, num_accepted[:, None], axis=1)[:, 0].astype(jnp.int32)
    return Verification(num_accepted, next_token, num_accepted == draft_length, jnp.ones(rows, jnp.float32))
