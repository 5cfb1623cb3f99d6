"""Step 4 of a round: the target scores the drafts, and the payload's verifier keeps its distribution.

Two verifiers serve every payload: rejection sampling (arXiv 2211.17192, 2302.01318) and, for
`seeded`, token matching under noise shared by position. What travels differs, not what is drawn.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

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
    tokens = jnp.concatenate([last[:, None], uplink.tokens], axis=1)
    noise = RoundNoise(key=state.key, round=state.round, position=state.length, greedy=sampling.temperature <= 0)
    valid = uplink.length.max() + 1

    def run(window: int) -> tuple[Array, Cache, Array]:
        x, fresh = decoder.forward(tokens[:, :window], state.cache, state.length - 1, valid)
        short = widest - window
        fresh = jax.tree.map(lambda array: jnp.pad(array, [(0, 0), (0, 0), (0, short), (0, 0)]), fresh)
        return jnp.pad(x, [(0, 0), (0, short), (0, 0)]), fresh, x.max()

    def score(window: int) -> tuple[Downlink, Array | None]:
        logits = decoder.unembed(x[:, :window], valid=valid)
        downlink, row = payload.verify(uplink, shape_logits(logits, sampling), noise, ids)
        return _flag(downlink, gelato_kernels.entropy(logits).logsumexp, uplink), row

    def by_window(branch: Callable[[int], Any]) -> Any:
        bucket = jnp.searchsorted(jnp.asarray(shapes.windows), valid)
        return lax.switch(bucket, [partial(branch, window) for window in shapes.windows])

    # Layers that save tokens pay for those that are there in one program; other programs are as wide as they must be.
    x, fresh, after = run(widest) if decoder.config.saves_tokens else by_window(run)
    downlink, row = by_window(score)
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
