"""Rollouts of one batch: the target writes its own text, and the draft is rolled out at every position of it.

A position is a round that keeps nothing of its drafts. At each fixed exit the draft proposes G tokens, all stops
off; the target scores each rollout in one window; then one token of the target's own distribution is committed,
whatever was accepted. So the text is the target's alone, and every draft length at every position is known.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import gelato_kernels
from gelato_jax import control, keys, payloads
from gelato_jax.decoding import DecodeSettings, Pair, encode_prompts, make_job
from gelato_jax.decoding.commit import append
from gelato_jax.decoding.draft import Draft
from gelato_jax.decoding.draft import roll_out as draft
from gelato_jax.decoding.programs import start
from gelato_jax.decoding.records import DecodeState, DraftModel, EdgeState, Job, Shapes, with_weights
from gelato_jax.decoding.sampling import shape_logits
from gelato_jax.models import Cache, write
from gelato_jax.simulation.recording import Rollouts
from gelato_jax.types import RoundPlan


def roll_out(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    *,
    settings: DecodeSettings,
    top_p_mass: float = 0.9,
    progress: Callable[[int], None] = lambda position: None,
) -> tuple[Rollouts, list[list[int]]]:
    """Write one batch of texts, position by position.

    Args:
        pair: draft and target.
        prompts: token ids of each row.
        settings: see `recorder.make_recording`.
        top_p_mass: see `recorder.make_recording`.
        progress: told, before each position, how many are through.

    Returns:
        The rollouts, NumPy leaves padded to `max_new_tokens - 1` positions, and the ids of each text.

    Raises:
        GelatoError: a prompt or a setting that cannot run.
    """
    length = settings.max_draft_length
    # Rows end where they would, but their last rounds draft as far as the first: G more slots, and a later limit.
    room = dataclasses.replace(settings, max_new_tokens=settings.max_new_tokens + length)
    work = make_job(
        pair,
        settings=settings,
        controller=control.static(length),
        length_exit=control.length_exits.none(),
        depth_exit=control.depth_exits.fixed(),
        payload=payloads.full(),
    )
    batch = encode_prompts(pair, prompts, room)
    state = start(work, **batch, shapes=settings.shapes)
    looks: list[dict[str, np.ndarray]] = []
    while len(looks) < settings.max_new_tokens - 1 and not np.asarray(state.device.done).all():
        progress(len(looks))
        state, look = _advance(state, work, jnp.float32(top_p_mass), shapes=settings.shapes)
        looks.append(jax.device_get(look))
    rows = zip(np.asarray(state.device.tokens), prompts, np.asarray(state.device.length), strict=True)
    texts = [tokens[len(prompt) : end].tolist() for tokens, prompt, end in rows]
    return _stack(looks, texts, prompts, with_weights(work.draft), settings), texts


@partial(jax.jit, static_argnames="shapes", donate_argnames="state")
def _advance(state: DecodeState, work: Job, mass: Array, *, shapes: Shapes) -> tuple[DecodeState, dict[str, Array]]:
    """Roll out after every row's last token, at every exit, and commit one token of the target's distribution.

    A position is a round with a number of its own, so no uniform serves two positions. Exits are alternatives and
    share the uniforms of drafting and acceptance. `NEXT_TOKEN`, which draws a real round's residual, draws the text.

    Returns:
        The state at the next position, and what was seen: leaves `[X, B, ...]`.
    """
    channel = jax.vmap(work.system.link.observe)(state.row.link)
    plan = _whole_rollout(state, shapes)

    def at_exit(caches: tuple[Cache, Cache], exit: Array) -> tuple[tuple[Cache, Cache], tuple[dict[str, Array], Array]]:
        # What the exit before left after the valid slots is overwritten: every exit begins from the same cache,
        # and the deepest one's entry stays.
        draft_cache, target_cache = caches
        policy = dataclasses.replace(work.policy, depth_exit=control.depth_exits.fixed(exit))
        begun = dataclasses.replace(state.device, cache=draft_cache)
        endless = dataclasses.replace(work, policy=policy, eos_ids=jnp.full_like(work.eos_ids, -1))
        drafted, _ = draft(begun, state.row, plan, channel, endless, shapes)
        weights, target_cache = _score(state.edge, drafted, target_cache, work)
        uniforms = keys.round_uniforms(state.edge.key, state.edge.round, keys.Use.NEXT_TOKEN, (2,))
        look = _look(state, drafted, weights, work, mass)
        return (drafted.cache, target_cache), (look, gelato_kernels.sample(weights[:, 0], uniforms))

    exits = jnp.arange(work.draft.work.shape[0])
    (draft_cache, target_cache), (looks, tokens) = lax.scan(at_exit, (state.device.cache, state.edge.cache), exits)
    token, count = tokens[-1], (~state.device.done).astype(jnp.int32)  # all exits saw the same row of p
    length = state.device.length + count
    device = dataclasses.replace(
        state.device,
        tokens=append(state.device.tokens, token[:, None], state.device.length, count),
        length=length,
        done=state.device.done | jnp.isin(token, work.eos_ids),
        cache=draft_cache,
        cache_length=length - 1,
    )
    edge = dataclasses.replace(state.edge, last=token, length=length, cache=target_cache, round=state.edge.round + 1)
    row = dataclasses.replace(state.row, round=state.row.round + 1)
    return DecodeState(device=device, edge=edge, row=row), looks


def _whole_rollout(state: DecodeState, shapes: Shapes) -> RoundPlan:
    """The plan of drafting all G tokens whatever they cost, leaves `[B]`."""
    ones = jnp.ones(state.device.length.shape, jnp.float32)
    return RoundPlan(
        draft_budget=jnp.full_like(state.device.length, shapes.max_draft_length),
        token_value=ones,
        energy_price=jnp.zeros_like(ones),
        time_price=jnp.zeros_like(ones),
        acceptance_rate=ones,
        acceptance_level=ones,
        rejection_level=ones,
        stream_length=jnp.ones_like(state.device.length),
    )


def _score(state: EdgeState, drafted: Draft, cache: Cache, work: Job) -> tuple[Array, Cache]:
    """The target's log weights `[B, G + 1, V]` along a rollout, and its cache with the last committed token written."""
    decoder = work.target.bind()
    tokens = jnp.concatenate([state.last[:, None], drafted.proposal.tokens], axis=1)
    x, fresh = decoder.forward(tokens, cache, state.length - 1)
    committed = jax.tree.map(lambda array: array[..., :1, :], fresh)
    logits = decoder.unembed(x)
    weights = shape_logits(logits, work.sampling)
    return weights, write(cache, committed, state.length - 1, after=x)


def _look(state: DecodeState, drafted: Draft, weights: Array, work: Job, mass: Array) -> dict[str, Array]:
    """What a rollout shows, `[B, G]`, and how much of it is accepted, `[B]`: fields of `Rollouts`."""
    window, proposal = weights[:, :-1], drafted.proposal
    ended = jnp.isin(proposal.tokens, work.eos_ids)
    ends = jnp.where(ended.any(axis=1), jnp.argmax(ended, axis=1), ended.shape[1])
    log_p = window - gelato_kernels.entropy(window).logsumexp[..., None]
    log_q = proposal.log_weights - gelato_kernels.entropy(proposal.log_weights).logsumexp[..., None]
    log_p_token = jnp.take_along_axis(log_p, proposal.tokens[..., None], axis=2)[..., 0]
    overlap = jnp.exp(jnp.minimum(_columns(log_p, proposal, with_weights(work.draft)), log_q)).sum(axis=-1)
    support = jnp.isfinite(gelato_kernels.top_p_logits(proposal.log_weights, mass)).sum(axis=-1)
    uniforms = keys.round_uniforms(state.edge.key, state.edge.round, keys.Use.ACCEPT, ended.shape[1:])
    return {
        "entropy": drafted.entropy,
        "max_probability": drafted.max_probability,
        "chance": jnp.exp(jnp.minimum(log_p_token - proposal.log_prob, 0.0)),
        "q": jnp.exp(proposal.log_prob),
        "p": jnp.exp(log_p_token),
        "overlap": jnp.minimum(overlap, 1.0),
        "support": support.astype(jnp.int32),
        "ends": ends.astype(jnp.int32),
        "accepted": gelato_kernels.accept(
            window, proposal.tokens, proposal.log_prob, jnp.full_like(ends, ended.shape[1]), uniforms
        ),
    }


def _columns(log_p: Array, proposal: payloads.Proposal, model: DraftModel) -> Array:
    """The target's log probabilities `[B, G, V]` at the ids that q's columns stand for, `[B, G, Q]`."""
    if model.vocabulary is None:
        return log_p
    known = log_p[..., model.vocabulary]
    if model.repeats is None:
        return known
    return jnp.concatenate([known, jnp.take_along_axis(log_p, proposal.repeated[..., None], axis=2)], axis=2)


_COUNTS = ("accepted", "support", "ends")
_OF_POSITIONS = ("accepted", "ends")
_OF_TEXTS = ("positions", "limit", "prompt_tokens")


def _stack(
    looks: Sequence[dict[str, np.ndarray]],
    texts: Sequence[Sequence[int]],
    prompts: Sequence[Sequence[int]],
    model: DraftModel,
    settings: DecodeSettings,
) -> Rollouts:
    """Positions as one record; those that a text did not reach are 0."""
    longest = settings.max_new_tokens - 1
    shape = (len(texts), longest, model.work.shape[0], settings.max_draft_length)
    positions = np.asarray([len(text) - 1 for text in texts], np.int32)
    reached = np.arange(longest) < positions[:, None]

    def together(name: str) -> np.ndarray:
        whole = np.zeros(shape[: 3 if name in _OF_POSITIONS else 4], np.int32 if name in _COUNTS else np.float32)
        for position, look in enumerate(looks):
            whole[:, position] = np.moveaxis(look[name], 0, 1)
        whole[~reached] = 0
        return whole

    fields: dict[str, Any] = {
        field.name: together(field.name) for field in dataclasses.fields(Rollouts) if field.name not in _OF_TEXTS
    }
    fields["positions"] = positions
    fields["limit"] = np.full(len(texts), longest, np.int32)
    fields["prompt_tokens"] = np.asarray([len(prompt) for prompt in prompts], np.int32)
    return Rollouts(**fields)
