"""Making a recording: the target writes its own text, and the draft is rolled out at every position of it.

A position is a round that keeps nothing of its drafts. At each fixed exit the draft proposes G tokens, all stops
off; the target scores each rollout in one window; then one token of the target's own distribution is committed,
whatever was accepted. So the text is the target's alone, and every draft length at every position is known.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import gelato_kernels
from gelato_jax import control, keys, payloads
from gelato_jax.decoding import DecodeSettings, Pair, encode_prompts, make_job
from gelato_jax.decoding.batching import PromptBatch, prompt_batches
from gelato_jax.decoding.commit import append
from gelato_jax.decoding.draft import Draft
from gelato_jax.decoding.draft import roll_out as draft
from gelato_jax.decoding.programs import start
from gelato_jax.decoding.records import DecodeState, DraftModel, EdgeState, Job, Shapes
from gelato_jax.decoding.sampling import shape_logits
from gelato_jax.errors import GelatoError
from gelato_jax.models import Cache, write
from gelato_jax.simulation.recording import FORMAT, Recording, Rollouts, load, save
from gelato_jax.training.answers import model_fingerprint
from gelato_jax.types import RoundPlan

STAGE = "recording"
"""What the progress of a recording is told under; its unit is a token of text."""


def make_recording(
    pair: Pair,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    settings: DecodeSettings,
    categories: Sequence[str],
    top_p_mass: float = 0.9,
    batch_rows: int = 32,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Recording:
    """Roll a draft out at every position of its target's answers.

    Prompts of like length share a batch. A text, where it is sampled, depends on the seed and on the prompt's place
    among all prompts, not on its batch.

    Args:
        pair: draft, target, tokenizer.
        prompts: user turns, or token ids.
        settings: the distribution of the text, `max_new_tokens` of each, and `max_draft_length`, G.
        categories: of each prompt.
        top_p_mass: mass in (0, 1] of the set that `Rollouts.support` counts.
        batch_rows: texts written at once, at most; fewer where prompts are long.
        cache: a folder in which each finished batch is kept, and from which it is read when the same is asked again.
        progress: told the stage, how many tokens are done, and of how many at most.

    Returns:
        The recording, in the order of the prompts.

    Raises:
        GelatoError: no prompt, one that does not fit the target's context, or a setting that cannot run.
    """
    ids = [pair.tokenizer.chat_prompt(row) if isinstance(row, str) else list(row) for row in prompts]
    _check(pair, ids, categories, settings, top_p_mass, batch_rows)
    batches = _batches(ids, settings, batch_rows)
    files = _files(pair, batches, settings, top_p_mass, cache)
    kept = {number: load(file).rollouts for number, file in enumerate(files) if file is not None and file.is_file()}

    longest = settings.max_new_tokens - 1
    done, total = longest * sum(len(batches[number].rows) for number in kept), longest * len(ids)
    progress(STAGE, done, total)
    for number, batch in enumerate(batches):
        if number in kept:
            continue
        kept[number] = roll_out(
            pair,
            batch.prompts,
            settings=dataclasses.replace(settings, seed=batch.seeds),
            top_p_mass=top_p_mass,
            progress=lambda position, batch=batch, done=done: progress(STAGE, done + position * len(batch.rows), total),
        )[0]
        if (file := files[number]) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save(file, _recording(pair, kept[number], [""] * len(batch.prompts), settings, top_p_mass))
        done += longest * len(batch.rows)
        progress(STAGE, done, total)
    order = [row for batch in batches for row in batch.rows]
    parts = [_take(kept[number], slice(len(batch.rows))) for number, batch in enumerate(batches)]
    rollouts = _take(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), np.argsort(order))
    return _recording(pair, rollouts, categories, settings, top_p_mass)


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
        settings: see `make_recording`.
        top_p_mass: see `make_recording`.
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
    return _stack(looks, texts, prompts, work.draft, settings), texts


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
    )


def _score(state: EdgeState, drafted: Draft, cache: Cache, work: Job) -> tuple[Array, Cache]:
    """The target's log weights `[B, G + 1, V]` along a rollout, and its cache with the last committed token written."""
    decoder = work.target.bind()
    tokens = jnp.concatenate([state.last[:, None], drafted.proposal.tokens], axis=1)
    x, fresh = decoder.forward(tokens, cache, state.length - 1)
    committed = jax.tree.map(lambda array: array[:, :, :1], fresh)
    logits = decoder.unembed(x)
    weights = shape_logits(logits, gelato_kernels.entropy(logits).argmax, work.sampling)
    return weights, write(cache, committed, state.length - 1, after=x)


def _look(state: DecodeState, drafted: Draft, weights: Array, work: Job, mass: Array) -> dict[str, Array]:
    """What a rollout shows, `[B, G]`, and how much of it is accepted, `[B]`: fields of `Rollouts`."""
    window, proposal = weights[:, :-1], drafted.proposal
    ended = jnp.isin(proposal.tokens, work.eos_ids)
    ends = jnp.where(ended.any(axis=1), jnp.argmax(ended, axis=1), ended.shape[1])
    log_p = window - gelato_kernels.entropy(window).logsumexp[..., None]
    log_q = proposal.log_weights - gelato_kernels.entropy(proposal.log_weights).logsumexp[..., None]
    log_p_token = jnp.take_along_axis(log_p, proposal.tokens[..., None], axis=2)[..., 0]
    overlap = jnp.exp(jnp.minimum(_columns(log_p, proposal, work.draft), log_q)).sum(axis=-1)
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


def _batches(ids: Sequence[list[int]], settings: DecodeSettings, batch_rows: int) -> list[PromptBatch]:
    """Even batches, for one of few rows would cost as much as the others."""
    most = -(-len(ids) // -(-len(ids) // batch_rows))
    slots = settings.max_new_tokens + 2 * settings.max_draft_length
    return prompt_batches(ids, most_rows=most, slots=slots, seed=settings.seed)


def _files(
    pair: Pair, batches: Sequence[PromptBatch], settings: DecodeSettings, top_p_mass: float, cache: Path | None
) -> list[Path | None]:
    """Where each batch is kept: named by all that it follows from."""
    if cache is None:
        return [None] * len(batches)
    facts = (FORMAT, model_fingerprint(pair.target), _draft_fingerprint(pair.draft), pair.eos_ids, top_p_mass)

    def file(batch: PromptBatch) -> Path:
        asked = (*facts, dataclasses.replace(settings, seed=batch.seeds), batch.prompts)
        return cache / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:24]}.npz"

    return [file(batch) for batch in batches]


def _draft_fingerprint(model: DraftModel) -> str:
    """What tells a draft from others: its weights, its ids, its odds of repeats and its calibration."""
    digest = hashlib.sha256(model_fingerprint(model.model).encode())
    for leaf in jax.tree.leaves((model.vocabulary, model.repeats, model.calibration)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _recording(
    pair: Pair, rollouts: Rollouts, categories: Sequence[str], settings: DecodeSettings, top_p_mass: float
) -> Recording:
    about: dict[str, Any] = {
        "pair": pair.name,
        "draft": _draft_fingerprint(pair.draft)[:16],
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "top_p_mass": top_p_mass,
        "exits": list(pair.draft.model.config.exits),
        "seed": settings.seed,
        "prompts": len(categories),
        "max_new_tokens": settings.max_new_tokens,
        "versions": {"gelato_jax": version("gelato-jax"), "jax": version("jax"), "numpy": version("numpy")},
    }
    return Recording(
        rollouts=rollouts,
        calibration=jax.device_get(pair.draft.calibration.at(jnp.float32(settings.temperature))),
        work=np.asarray(pair.draft.work),
        vocab_size=pair.target.config.valid_outputs,
        draft_vocab_size=pair.draft.num_outputs,
        further=pair.draft.vocabulary is not None and pair.draft.repeats is not None,
        categories=tuple(categories),
        about=about,
    )


def _take(rollouts: Rollouts, rows: slice | np.ndarray) -> Rollouts:
    return jax.tree.map(lambda leaf: leaf[rows], rollouts)


def _check(
    pair: Pair,
    ids: Sequence[Sequence[int]],
    categories: Sequence[str],
    settings: DecodeSettings,
    top_p_mass: float,
    batch_rows: int,
) -> None:
    """Refuse before anything runs."""
    if not ids:
        raise GelatoError("there is no prompt; give at least one")
    if len(categories) != len(ids):
        raise GelatoError(f"there are {len(categories)} categories of {len(ids)} prompts, give one of each")
    if settings.max_new_tokens < 2:
        raise GelatoError(
            f"max_new_tokens is {settings.max_new_tokens}, must be at least 2: the first is never drafted"
        )
    if settings.max_draft_length < 1:
        raise GelatoError(
            f"max_draft_length is {settings.max_draft_length}, must be at least 1: nothing else is recorded"
        )
    if not 0.0 < top_p_mass <= 1.0:
        raise GelatoError(f"top_p_mass is {top_p_mass}, must lie in (0, 1]")
    if batch_rows < 1:
        raise GelatoError(f"batch_rows is {batch_rows}, must be at least 1")
    longest = pair.target.config.max_positions - settings.max_new_tokens - settings.max_draft_length
    for number, row in enumerate(ids):
        if not 1 <= len(row) <= longest:
            raise GelatoError(
                f"prompt {number} has {len(row)} tokens; with {settings.max_new_tokens} new tokens and rollouts of "
                f"{settings.max_draft_length} it must have 1 to {longest}: leave it out or shorten it"
            )
