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
from gelato_jax.models import Fresh, Model, pad_window, write
from gelato_jax.payloads import Downlink, DraftIds, Payload, RoundNoise, Uplink
from gelato_jax.types import record


@record
class _Passes:
    """What an answer carries from pass to pass."""

    state: EdgeState
    downlink: Downlink  # as far as it goes
    active: Array  # [B] bool rows that the next pass is for
    number: Array  # [] int32 passes so far


def verify(
    state: EdgeState,
    uplink: Uplink,
    *,
    target: Model,
    sampling: Sampling,
    payload: Payload,
    ids: DraftIds,
    eos_ids: Array,
    shapes: Shapes,
    most_passes: Array | int | None = None,
) -> tuple[EdgeState, Downlink]:
    """Answer a round: a pass over the drafts; where there are none, a pass for each token that the row asks for.

    A stream of n tokens is n rounds without drafts whose messages nobody had to send: the same passes under the same
    noise, so the same text. It ends behind an end of sequence; or after `most_passes`, to be gone on with.

    Args:
        state: before the round.
        uplink: what the device sent.
        target: the model.
        sampling: how its logits become a distribution.
        payload: the scheme.
        ids: what q's columns stand for.
        eos_ids: `[E]` int32 ids behind which a stream need not go on.
        shapes: static sizes.
        most_passes: [] int32 in 1..G + 1, which it is if not given.

    Returns:
        The state with the windows in its cache, and the answer.
    """
    widest = uplink.tokens.shape[1] + 1
    most = jnp.minimum(uplink.wanted, widest if most_passes is None else most_passes)
    score = partial(_score, target=target, sampling=sampling, payload=payload, ids=ids, shapes=shapes)

    def run(passes: _Passes) -> _Passes:
        first = passes.number == 0
        asked = dataclasses.replace(
            uplink,
            active=passes.active,
            length=jnp.where(first, uplink.length, 0),
            pending=None if uplink.pending is None else jnp.where(first, uplink.pending, -1),
        )
        after, new = score(passes.state, asked)
        old = passes.downlink
        column = jnp.arange(uplink.tokens.shape[1]) == passes.number - 1
        new = dataclasses.replace(
            new,
            streamed=jnp.where(column, old.next_token[:, None], old.streamed),
            num_streamed=jnp.broadcast_to(passes.number, passes.active.shape),
        )
        ended = new.fault | jnp.isin(new.next_token, eos_ids) | (uplink.length > 0)
        return _Passes(
            state=after,
            downlink=_where(passes.active, new, old),
            active=passes.active & ~ended & (passes.number + 1 < most),
            number=passes.number + 1,
        )

    one = payload.blank_downlink(widest - 1, ids)
    blank = jax.tree.map(lambda leaf: jnp.zeros((uplink.active.shape[0], *leaf.shape[1:]), leaf.dtype), one)
    start = _Passes(state=state, downlink=blank, active=uplink.active, number=jnp.zeros((), jnp.int32))
    passes = lax.while_loop(lambda passes: passes.active.any(), run, start)
    return passes.state, passes.downlink


def _where(rows: Array, new: Any, old: Any) -> Any:
    """Of trees with rows first: `new` in the active rows, `[B]` bool, `old` in others; at least one is active."""
    if rows.shape[0] == 1:
        return new
    return jax.tree.map(lambda a, b: jnp.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def _score(
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

    Arguments as `verify`. Rows that are not active stay where they are.
    """
    decoder, widest = target.bind(), shapes.windows[-1]
    last = state.last if uplink.pending is None else jnp.where(uplink.pending >= 0, uplink.pending, state.last)
    tokens = jnp.concatenate([last[:, None], uplink.tokens], axis=1)
    noise = RoundNoise(
        key=state.key, round=state.round, position=state.length, greedy=(sampling.temperature <= 0).all()
    )
    valid = jnp.where(uplink.active, uplink.length + 1, 0)

    def run(window: int) -> tuple[Array, Fresh, Array]:
        x, fresh = decoder.forward(tokens[:, :window], state.cache, state.length - 1, valid)
        return jnp.pad(x, [(0, 0), (0, widest - window), (0, 0)]), pad_window(fresh, widest), x.max()

    def score(window: int) -> tuple[Downlink, Array | None]:
        logits = decoder.unembed(x[:, :window], valid=valid)
        downlink, row = payload.verify(uplink, shape_logits(logits, sampling), noise, ids)
        return _flag(downlink, gelato_kernels.entropy(logits).logsumexp, uplink), row

    def by_window(branch: Callable[[int], Any]) -> Any:
        bucket = jnp.searchsorted(jnp.asarray(shapes.windows), valid.max())
        return lax.switch(bucket, [partial(branch, window) for window in shapes.windows])

    # Layers that save tokens pay for those that are there in one program, but clear the places of the others: for one
    # token of nine that is a tenth of the pass. Other programs are as wide as they must be.
    if decoder.config.saves_tokens:
        x, fresh, after = lax.cond(valid.max() > 1, lambda: run(widest), lambda: run(1))
    else:
        x, fresh, after = by_window(run)
    downlink, row = by_window(score)
    moved = EdgeState(
        last=jnp.where(uplink.active, downlink.next_token, state.last),
        length=state.length + jnp.where(uplink.active, downlink.accepted + 1, 0),
        cache=write(state.cache, fresh, state.length - 1, after=after),
        key=state.key,
        round=state.round + uplink.active,
        row=_where(uplink.active, row, state.row),
    )
    return moved, downlink


def _flag(downlink: Downlink, logsumexp: Array, uplink: Uplink) -> Downlink:
    """Nothing is accepted where a logit that counts is no number; `logsumexp [B, W]` is finite where they are."""
    used = jnp.arange(logsumexp.shape[1]) <= uplink.length[:, None]
    fault = (used & ~jnp.isfinite(logsumexp)).any(axis=1)
    return dataclasses.replace(downlink, fault=fault, accepted=jnp.where(fault, 0, downlink.accepted))
