"""Draft and target side by side on text that is already written: what each exit would have had accepted.

Whole rows go through the layers at once, without a cache. Only the positions ahead of an answer's
tokens go through the heads, some at a time: their logits never exist all together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import gelato_kernels
from gelato_jax.decoding import DraftModel
from gelato_jax.decoding.repeats import column_of, weigh_repeat
from gelato_jax.models import Model
from gelato_jax.training.distill import exit_states
from gelato_jax.training.states import Answer, answer_states, over_rows, target_states
from gelato_jax.types import record

LONGEST_REPEAT = 4
"""Tokens of a repeat that are told apart at most."""

_POSITIONS = 128  # compared at a time: the target's logits of so many stay near a CPU's caches


@record
class Trace:
    """Draft against target ahead of each of M tokens, at every exit. Distributions are those at temperature 1."""

    entropy: Array  # [M, X] nats, of the draft's softmax over its own vocabulary
    probe: Array  # [M, X] nats, what an exit's check says of that entropy; the entropy itself where there is no probe
    acceptance: Array  # [M, X] sum of min(p, q) over the target's vocabulary, which is 1 - TV(p, q)
    chance: Array  # [M, X] min(1, q / p) of the token that follows: the chance that it was drafted, given the text
    agreement: Array  # [M, X] bool: draft and target have the same likeliest token
    target_entropy: Array  # [M] nats
    reached: Array  # [M, X] bool: the token got as far as this exit
    repeat_count: Array  # [M] int32 last tokens that were in the text before; 0: what follows is without meaning
    repeat_odds: Array  # [M, X] log odds under the head of the token that followed them there; nan: the head lacks it
    rival: Array  # [M, X] log-probability of the likeliest other token, among the others
    rival_wins: Array  # [M, X] bool: that one is the target's likeliest
    repeat_chance: Array  # [M] that token's probability under the target
    repeat_wins: Array  # [M] bool: it is the target's likeliest


@jax.jit
def draft_states(draft: Model, tokens: Array, leaves: Array) -> Array:
    """A draft's normed states `[R, T, X, D]` over rows `[R, T]`.

    Args:
        draft: its decoder.
        tokens: the rows.
        leaves: `[R, T]` int32 exit at which a token leaves. After it the state stands still: deeper exits of this
            token mean nothing, and deeper layers see keys and values projected from that state, as they do while
            drafting.
    """
    return jnp.stack(exit_states(draft.bind(), tokens, leaves), axis=2)


@jax.jit
def _compare(
    target: Model,
    draft: DraftModel,
    temperature: Array,
    target_state: Array,
    draft_state: Array,
    following: Array,
    leaves: Array,
    repeated: Array,
    repeat_count: Array,
) -> Trace:
    """Compare M positions of texts of one distribution.

    Args:
        target: the model whose distribution counts.
        draft: what is measured.
        temperature: [] of the texts, 0 or 1: says which odds of repeats hold.
        target_state: `[M, D]`.
        draft_state: `[M, X, D]`.
        following: `[M]` the token that follows.
        leaves: `[M]` int32 exit of each.
        repeated: `[M]` the token that a repeat suggests.
        repeat_count: `[M]` how many tokens repeat.
    """
    decoder, oracle = draft.model.bind(), target.bind()
    p_logits = oracle.head_logits(target_state)
    p_stats = gelato_kernels.entropy(p_logits)
    ids = _column_ids(draft, repeated)
    known = ids < p_logits.shape[-1]  # a model may pad its vocabulary further than another of its family
    log_p = jnp.take_along_axis(p_logits, jnp.minimum(ids, p_logits.shape[-1] - 1), axis=1)
    log_p = log_p - p_stats.logsumexp[:, None]
    p = jnp.where(known, jnp.exp(log_p), 0.0)
    repeat_column, repeat_known = column_of(repeated, draft.vocabulary)
    column, head_has = column_of(following, draft.vocabulary)
    suggested = ~head_has & (following == repeated) & (repeat_count > 0) & (draft.repeats is not None)
    column = jnp.where(suggested, draft.num_outputs - 1, column)

    def look(index: int) -> dict[str, Array]:
        head = decoder.head_logits(draft_state[:, index])
        own = jnp.take_along_axis(head, repeat_column[:, None], axis=1)[:, 0]
        others = gelato_kernels.entropy(
            head.at[jnp.arange(head.shape[0]), jnp.where(repeat_known, repeat_column, head.shape[1])].set(
                -jnp.inf, mode="drop"
            )
        )
        logits = head
        if draft.repeats is not None:
            odds, exits = draft.repeats.at(temperature), jnp.full(following.shape, index)
            logits = weigh_repeat(head, repeated, repeat_count, exits, draft.vocabulary, odds)
        stats = gelato_kernels.entropy(logits)
        log_q = logits - stats.logsumexp[:, None]
        log_ratio = jnp.take_along_axis(log_q - log_p, column[:, None], axis=1)[:, 0]
        has_probe = decoder.config.exit_probes and index < len(decoder.config.exits) - 1
        best = jnp.take_along_axis(ids, stats.argmax[:, None], axis=1)[:, 0]
        return {
            "entropy": stats.entropy,
            "probe": decoder.exit_probes[index](draft_state[:, index]) if has_probe else stats.entropy,
            "acceptance": jnp.minimum(p, jnp.exp(log_q)).sum(axis=-1),
            "chance": jnp.where(head_has | suggested, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0),
            "agreement": best == p_stats.argmax,
            "reached": leaves >= index,
            "repeat_odds": jnp.where(repeat_known, own - others.logsumexp, jnp.nan),
            "rival": jnp.log(others.max_probability),
            "rival_wins": jnp.take_along_axis(ids, others.argmax[:, None], axis=1)[:, 0] == p_stats.argmax,
        }

    exits = [look(index) for index in range(len(decoder.config.exits))]
    columns = {name: jnp.stack([columns[name] for columns in exits], axis=1) for name in exits[0]}
    repeat_logit = jnp.take_along_axis(p_logits, jnp.minimum(repeated, p_logits.shape[-1] - 1)[:, None], axis=1)[:, 0]
    return Trace(
        target_entropy=p_stats.entropy,
        repeat_count=repeat_count,
        repeat_chance=jnp.exp(repeat_logit - p_stats.logsumexp),
        repeat_wins=repeated == p_stats.argmax,
        **columns,
    )


def _column_ids(draft: DraftModel, repeated: Array) -> Array:
    """Target ids `[M, Q]` of the columns of a draft's distribution."""
    size = draft.model.config.valid_outputs
    ids = jnp.arange(size) if draft.vocabulary is None else draft.vocabulary
    ids = jnp.broadcast_to(ids, (repeated.shape[0], size))
    return ids if draft.num_outputs == size else jnp.concatenate([ids, repeated[:, None]], axis=1)


def _longest(draft: DraftModel) -> int:
    """Tokens of a repeat that are compared."""
    return LONGEST_REPEAT if draft.repeats is None else draft.repeats.greedy.longest


def suggestions(tokens: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """`decoding.repeats.find_repeat` after every token of a text `[T]`: tokens `[T]` and counts `[T]`, int32."""
    text = tokens.tolist()
    followers: list[dict[tuple[int, ...], int]] = [{} for _ in range(longest)]
    repeated, counts = np.zeros(len(text), np.int32), np.zeros(len(text), np.int32)
    for index, token in enumerate(text):
        for size in range(1, min(longest, index) + 1):
            followers[size - 1][tuple(text[index - size : index])] = token
        for size in range(min(longest, index + 1), 0, -1):
            found = followers[size - 1].get(tuple(text[index + 1 - size : index + 1]))
            if found is not None:
                repeated[index], counts[index] = found, size
                break
    return repeated, counts


def trace_rows(
    target: Model, draft: DraftModel, tokens: Array, leaves: Array | None = None, temperature: float = 1.0
) -> Trace:
    """Compare a draft with its target at every position of whole rows.

    Args:
        target: the model whose distribution counts.
        draft: what is measured.
        tokens: `[R, T]` int32 ids of the target.
        leaves: `[R, T]` int32 exit of each token; the deepest if not given. See `draft_states`.
        temperature: of the rows; says which odds of repeats hold.

    Returns:
        NumPy leaves `[R, T - 1, ...]`: position i is about token i + 1.
    """
    leaves = _deepest(draft, tokens.shape) if leaves is None else leaves
    flat = lambda array: np.asarray(array)[:, :-1].reshape(-1, *array.shape[2:])  # noqa: E731
    looked_up = [suggestions(row, _longest(draft)) for row in np.asarray(tokens)]
    repeated, counts = map(np.stack, zip(*looked_up, strict=True))
    trace = _compare_all(
        target,
        draft,
        temperature,
        flat(target_states(target, tokens)),
        flat(draft_states(draft.model, tokens, leaves)),
        np.asarray(tokens)[:, 1:].reshape(-1),
        flat(leaves),
        flat(repeated),
        flat(counts),
    )
    return jax.tree.map(lambda leaf: leaf.reshape(tokens.shape[0], -1, *leaf.shape[1:]), trace)


def trace_answers(
    target: Model,
    draft: DraftModel,
    answers: Sequence[Answer],
    *,
    leaving: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trace]:
    """Compare a draft with its target on every token of the answers that a round may draft.

    The first token of an answer comes with the reading of the prompt and is never drafted; it is left out.

    Args:
        target: the model that wrote the answers.
        draft: what is measured.
        answers: the texts; where `states` are given the target's layers are not run.
        leaving: share of the tokens, prompts included, that leave at an early exit, drawn as in training.
        seed: of who leaves.
        progress: told tokens through the layers, and their number.

    Returns:
        A trace for each answer, NumPy leaves `[N - 1, ...]`.
    """
    random, deepest = np.random.default_rng(seed), len(draft.model.config.exits) - 1

    def run(tokens: np.ndarray) -> tuple[Array, np.ndarray]:
        leaves = np.full(tokens.shape, deepest, np.int32)
        if leaving and deepest:
            early = random.integers(0, deepest, tokens.shape, np.int32)
            leaves = np.where(random.random(tokens.shape) < leaving, early, leaves)
        return draft_states(draft.model, jnp.asarray(tokens), jnp.asarray(leaves)), leaves

    states = over_rows(run, answers, progress)
    known = [answer.states for answer in answers if answer.states is not None]
    oracle = known if len(known) == len(answers) else answer_states(target, answers)
    traces: list = [None] * len(answers)
    for is_greedy in (True, False):
        chosen = [index for index, answer in enumerate(answers) if (answer.temperature == 0) == is_greedy]
        if chosen:
            columns = [_columns(draft, answers[index], oracle[index], states[index]) for index in chosen]
            joined = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
            trace = _compare_all(target, draft, float(not is_greedy), *joined)
            ends = np.cumsum([len(column[0]) for column in columns])
            for index, end, column in zip(chosen, ends, columns, strict=True):
                span = slice(end - len(column[0]), end)
                traces[index] = jax.tree.map(lambda leaf, span=span: leaf[span], trace)
    return traces


def _columns(draft: DraftModel, answer: Answer, oracle: np.ndarray, run: tuple[Any, Any]) -> tuple[np.ndarray, ...]:
    """What `_compare` takes of an answer, ahead of each token but the first; `run` holds states and exits."""
    state, leaves = run
    text = np.concatenate([answer.prompt, answer.tokens])
    ahead = slice(len(answer.prompt), len(text) - 1)
    repeated, counts = suggestions(text, _longest(draft))
    return oracle[1:], state[1:], answer.tokens[1:], leaves[1:], repeated[ahead], counts[ahead]


def _deepest(draft: DraftModel, shape: tuple[int, ...]) -> Array:
    return jnp.full(shape, len(draft.model.config.exits) - 1, jnp.int32)


def _compare_all(target: Model, draft: DraftModel, temperature: float, *columns: np.ndarray) -> Trace:
    """`_compare` of any number of positions, NumPy leaves."""
    total, parts = len(columns[0]), []
    for begin in range(0, total, _POSITIONS):
        some = [column[begin : begin + _POSITIONS] for column in columns]
        short = _POSITIONS - len(some[0])
        if short:
            some = [np.pad(column, [(0, short)] + [(0, 0)] * (column.ndim - 1)) for column in some]
        parts.append(_compare(target, draft, jnp.float32(temperature), *map(jnp.asarray, some)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:total], *map(jax.device_get, parts))
