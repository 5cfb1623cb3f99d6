"""Step 4 of a round: the target scores the drafts, and the payload's verifier keeps its distribution.

Two verifiers serve every payload: rejection sampling (arXiv 2211.17192, 2302.01318) and, for
`seeded`, token matching under noise shared by position. What travels differs, not what is drawn.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding.records import EdgeState, Sampling, Shapes
from gelato_jax.decoding.sampling import shape_logits
from gelato_jax.models import Cache, Model, write
from gelato_jax.payloads import Downlink, DraftIds, Payload, RoundNoise, Uplink


def verify(
    state: EdgeState,
    uplink: Uplink,
    *,
    target: Model,
    sampling: Sampling,
    payload: Payload,
    ids: DraftIds,
    shapes: Shapes,
) -> tuple[EdgeState, Downlink]:
    """Score a window of the last committed token and the drafts, padded to the next window size.

    Args:
        state: before the round.
        uplink: what the device sent.
        target: the model.
        sampling: how its logits become a distribution.
        payload: the scheme.
        ids: what q's columns stand for.
        shapes: static sizes.

    Returns:
        The state with the window in its cache, and the answer.
    """
    decoder, widest = target.bind(), shapes.windows[-1]
    last = state.last if uplink.pending is None else jnp.where(uplink.pending >= 0, uplink.pending, state.last)
    noise = RoundNoise(key=state.key, round=state.round, position=state.length, greedy=sampling.temperature <= 0)

    def branch(window: int):
        def run() -> tuple[tuple[Downlink, Array | None], Cache, Array]:
            tokens = jnp.concatenate([last[:, None], uplink.tokens[:, : window - 1]], axis=1)
            x, fresh = decoder.forward(tokens, state.cache, state.length - 1)
            padding = [(0, 0), (0, 0), (0, widest - window), (0, 0)]
            fresh = jax.tree.map(lambda array: jnp.pad(array, padding), fresh)
            stats = gelato_kernels.entropy(logits := decoder.unembed(x))
            downlink, row = payload.verify(uplink, shape_logits(logits, stats.argmax, sampling), noise, ids)
            return (_flag(downlink, stats.logsumexp, uplink), row), fresh, x.max()

        return run

    bucket = jnp.searchsorted(jnp.asarray(shapes.windows), uplink.length.max() + 1)
    (downlink, row), fresh, after = lax.switch(bucket, [branch(window) for window in shapes.windows])
    moved = EdgeState(
        last=jnp.where(uplink.active, downlink.next_token, state.last),
        length=state.length + jnp.where(uplink.active, downlink.accepted + 1, 0),
        cache=write(state.cache, fresh, state.length - 1, after=after),
        key=state.key,
        round=state.round + uplink.active,
        row=row,
    )
    return moved, downlink


def _flag(downlink: Downlink, logsumexp: Array, uplink: Uplink) -> Downlink:
    """Nothing is accepted where a logit that counts is no number; `logsumexp [B, W]` is finite where they are."""
    used = jnp.arange(logsumexp.shape[1]) <= uplink.length[:, None]
    fault = (used & ~jnp.isfinite(logsumexp)).any(axis=1)
    return dataclasses.replace(downlink, fault=fault, accepted=jnp.where(fault, 0, downlink.accepted))
