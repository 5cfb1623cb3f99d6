"""Step 4 of a round: the target scores the drafts, and the verifier keeps its law.

Two verifiers serve every payload: rejection sampling (arXiv 2211.17192, 2302.01318) and, for
`seeded`, token matching under noise shared by position. What travels differs, not what is drawn.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding import keys
from gelato_jax.decoding.records import DecodeState, Draft, Job, Shapes
from gelato_jax.decoding.sampling import shape_logits
from gelato_jax.models import Cache, write


def verify(
    state: DecodeState, draft: Draft, job: Job, shapes: Shapes
) -> tuple[gelato_kernels.Verification, Cache, Array]:
    """Score a window of the last committed token and the drafts, padded to the next window size.

    Args:
        state: before the round.
        draft: what the device sent.
        job: models, policy, law.
        shapes: static sizes.

    Returns:
        The verification, the target's cache with the window written, and the candidates `[B]` that
        a device under the `candidates` payload would look at before one is accepted.
    """
    decoder = job.target.bind()
    widest = shapes.windows[-1]

    def branch(window: int):
        def run():
            last = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
            tokens = jnp.concatenate([last, draft.tokens[:, : window - 1]], axis=1)
            x, fresh = decoder.forward(tokens, state.target_cache, state.length - 1)
            padding = [(0, 0), (0, 0), (0, widest - window), (0, 0)]
            fresh = jax.tree.map(lambda array: jnp.pad(array, padding), fresh)
            weights = shape_logits(decoder.unembed(x), job.sampling)
            check = _match if job.policy.payload.scheme == "seeded" else _reject
            return check(weights, state, draft, job), fresh, x.max()

        return run

    sizes = jnp.asarray(shapes.windows)
    bucket = jnp.searchsorted(sizes, draft.length.max() + 1)
    verification, fresh, after = lax.switch(bucket, [branch(window) for window in shapes.windows])
    cache = write(state.target_cache, fresh, state.length - 1, after=after)
    return verification, cache, _candidates(verification, state)


def _reject(weights: Array, state: DecodeState, draft: Draft, job: Job) -> gelato_kernels.Verification:
    """Accept with probability min(1, p/q); draw the residual or the bonus. `weights [B, W, V]`."""
    drafts = weights.shape[1] - 1
    size = draft.tokens.shape[1]
    # Uniforms are drawn for G drafts whatever the window: padding must not change the text.
    accept_uniforms = keys.round_uniforms(state.key, state.account.round, keys.Use.ACCEPT, (size,))[:, :drafts]
    accepted = gelato_kernels.accept(
        weights[:, :drafts], draft.tokens[:, :drafts], draft.log_prob[:, :drafts], draft.length, accept_uniforms
    )
    is_bonus = accepted == draft.length
    target_row = jnp.take_along_axis(weights, accepted[:, None, None], axis=1)[:, 0]
    token_uniforms = keys.round_uniforms(state.key, state.account.round, keys.Use.NEXT_TOKEN, (2,))
    residual = gelato_kernels.sample_residual(target_row, _draft_row(draft, accepted, job), is_bonus, token_uniforms)
    return gelato_kernels.Verification(accepted, residual.token, is_bonus, residual.mass)


def _draft_row(draft: Draft, position: Array, job: Job) -> Array:
    """The draft's log weights at `position [B]`, over the target's vocabulary `[B, V]`."""
    if draft.tokens.shape[1] == 0:
        return jnp.zeros((draft.length.shape[0], job.target.config.valid_outputs), jnp.float32)
    row = jnp.take_along_axis(draft.log_weights, position[:, None, None], axis=1, mode="clip")[:, 0]
    if job.draft.vocabulary is None:
        return row
    everything = jnp.full((row.shape[0], job.target.config.valid_outputs), -jnp.inf)
    size = job.draft.vocabulary.shape[0]
    everything = everything.at[:, job.draft.vocabulary].set(row[:, :size])
    if job.draft.repeats is None:
        return everything
    # The further column is -inf where the head has the token.
    repeated = jnp.take_along_axis(draft.repeated, position[:, None], axis=1, mode="clip")[:, 0]
    return everything.at[jnp.arange(row.shape[0]), repeated].max(row[:, size])


def _match(weights: Array, state: DecodeState, draft: Draft, job: Job) -> gelato_kernels.Verification:
    """Draw the target's own tokens with the shared noise; equality is acceptance."""
    window, vocab_size = weights.shape[1:]
    positions = state.length[:, None] + jnp.arange(window)
    noise = keys.position_noise(state.key, positions, vocab_size)
    tokens = gelato_kernels.gumbel_argmax(weights, noise)
    return gelato_kernels.match(tokens, draft.tokens[:, : window - 1], draft.length)


def _candidates(verification: gelato_kernels.Verification, state: DecodeState) -> Array:
    """How many fresh draws of p a device needs until one passes 1 - q/p: geometric, `[B]` int32.

    Their law is the residual's, which was drawn already; only the count is still open.
    """
    uniform = keys.round_uniforms(state.key, state.account.round, keys.Use.CANDIDATES, ())
    return candidates_seen(verification.residual_mass, uniform)


def candidates_seen(residual_mass: Array, uniform: Array) -> Array:
    """Draws of p until one is accepted with probability `residual_mass`, `[...]` int32, by inversion of `uniform`."""
    failure = jnp.clip(1.0 - residual_mass, 0.0, 1.0 - 1e-6)  # a count beyond 1e6 is as good as none
    return 1 + jnp.floor(jnp.log(uniform) / jnp.log(jnp.maximum(failure, 1e-30))).astype(jnp.int32)
