"""Answers of a target, and a model's states on them: rows of like length run together, without a cache."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.models import Model

_TOKENS = 1024  # of a batch of rows, padding included: enough for full products, little lost where rows are few
_SHORTEST = 64  # tokens that a row is padded to at least

_T = TypeVar("_T")


class Answer(NamedTuple):
    """A text of the target's."""

    category: str
    prompt: np.ndarray  # [P] int32 ids, the chat template included
    tokens: np.ndarray  # [N] int32 ids of the answer
    temperature: float
    states: np.ndarray | None = None  # [N, D] float32 target's normed state ahead of each token


@jax.jit
def target_states(target: Model, tokens: Array) -> Array:
    """The target's normed last states `[R, T, D]` over rows `[R, T]`, ready for its head."""
    decoder = target.bind()
    x, _ = decoder.forward(tokens, None, jnp.zeros((tokens.shape[0],), jnp.int32))
    return decoder.exit_norm(-1)(x)


def answer_states(
    target: Model, answers: Sequence[Answer], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[np.ndarray]:
    """The target's normed states ahead of each token of the answers: what `Answer.states` holds."""
    return over_rows(lambda tokens: target_states(target, jnp.asarray(tokens)), answers, progress)


def over_rows(
    run: Callable[[np.ndarray], _T],
    answers: Sequence[Answer],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[_T]:
    """Run prompts with their answers through a model, rows of like length together.

    Args:
        run: from tokens `[R, T]` to a tree of arrays `[R, T, ...]`.
        answers: the texts.
        progress: told tokens that are through, and their number.

    Returns:
        For each answer what `run` gave ahead of each of its tokens: NumPy leaves `[N, ...]`.
    """
    lengths = [_padded(len(answer.prompt) + len(answer.tokens)) for answer in answers]
    results: list = [None] * len(answers)
    done = 0
    for size in sorted(set(lengths)):
        members = [index for index, length in enumerate(lengths) if length == size]
        rows = max(1, _TOKENS // size)
        for begin in range(0, len(members), rows):
            chosen = members[begin : begin + rows]
            tokens = np.zeros((rows, size), np.int32)  # a last batch is filled up: one program for each length
            for row, index in enumerate(chosen):
                text = np.concatenate([answers[index].prompt, answers[index].tokens])
                tokens[row, : len(text)] = text
            outputs = jax.tree.map(np.asarray, run(tokens))
            for row, index in enumerate(chosen):
                first = len(answers[index].prompt) - 1
                ahead = slice(first, first + len(answers[index].tokens))
                # Copies: a view would keep the whole batch.
                results[index] = jax.tree.map(lambda leaf, row=row, ahead=ahead: leaf[row, ahead].copy(), outputs)
            done += size * len(chosen)
            progress(done, sum(lengths))
    return results


def _padded(length: int) -> int:
    """The next power of two, or three quarters of it: few sizes, each compiled once."""
    size = max(_SHORTEST, 1 << (length - 1).bit_length())
    return size * 3 // 4 if size > _SHORTEST and length <= size * 3 // 4 else size
