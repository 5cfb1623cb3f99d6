"""The target answers prompts: the text on which its drafts are measured, written once and kept."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gelato_jax.decoding import DecodeSettings, Pair, autoregressive, first_layers
from gelato_jax.decoding.batching import prompt_batches
from gelato_jax.errors import GelatoError
from gelato_jax.files import atomic_write
from gelato_jax.models import Model
from gelato_jax.training.states import Answer, answer_states

_ROWS = 16  # answers written at once, in the smallest buffer
_SAMPLED = 64  # numbers of each weight that go into a model's fingerprint


def write_answers(
    pair: Pair,
    prompts: Sequence[tuple[str, str]],
    *,
    temperature: float,
    new_tokens: int = 128,
    seed: int = 0,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[Answer]:
    """Let the target answer prompts, and keep its states ahead of every token.

    Args:
        pair: whose target and tokenizer count; its draft does not.
        prompts: category and text of each user turn.
        temperature: 0 is greedy.
        new_tokens: most tokens of an answer.
        seed: of the draws.
        cache: a folder; what was written for the same target, prompts and settings is read from it, and kept there.
        progress: told what is done, how many of it, and of how many.

    Returns:
        The answers in the order of the prompts, `states` filled in.

    Raises:
        GelatoError: there is no prompt, or one does not fit the target's context.
    """
    ids = [pair.tokenizer.chat_prompt(text) for _, text in prompts]
    longest = pair.target.config.max_positions - new_tokens
    for number, row in enumerate(ids):
        if not 1 <= len(row) <= longest:
            raise GelatoError(
                f"prompt {number} has {len(row)} tokens; with {new_tokens} new tokens it must have 1 to {longest}: "
                "leave it out or shorten it"
            )
    # The draft is not run. One of the target's layers stands in, so that the program is the same for all drafts.
    pair = dataclasses.replace(pair, draft=first_layers(pair.target, 1))
    settings = DecodeSettings(max_new_tokens=new_tokens, temperature=temperature, seed=seed)
    shelf = _Shelf(cache, (model_fingerprint(pair.target), new_tokens, temperature, pair.eos_ids))
    texts = _decode(pair, ids, settings, shelf, lambda done, total: progress("write answers", done, total))
    answers = [
        Answer(category, np.asarray(prompt, np.int32), np.asarray(text, np.int32), temperature)
        for (category, _), prompt, text in zip(prompts, ids, texts, strict=True)
    ]
    states = shelf.get(
        ("states", texts),
        lambda: answer_states(pair.target, answers, lambda done, total: progress("read answers", done, total)),
    )
    return [answer._replace(states=state) for answer, state in zip(answers, states, strict=True)]


def model_fingerprint(model: Model) -> str:
    """What tells a model from others: its shape, and some numbers of each of its weights."""
    digest = hashlib.sha256(repr(model.config).encode())
    for path, array in sorted(model.params.items()):
        flat = array.reshape(-1)
        some = np.asarray(flat[:: max(1, flat.size // _SAMPLED)])
        digest.update(f"{path} {array.shape} {array.dtype} ".encode() + some.tobytes())
    return digest.hexdigest()


def _decode(
    pair: Pair,
    ids: Sequence[Sequence[int]],
    settings: DecodeSettings,
    shelf: "_Shelf",
    progress: Callable[[int, int], None],
) -> list[list[int]]:
    """Answers to prompts, those of like length in one batch, each batch kept as soon as it is written."""
    texts: list[list[int]] = [[] for _ in ids]
    done = 0
    progress(0, len(ids))
    for batch in prompt_batches(ids, most_rows=_ROWS, slots=settings.max_new_tokens, seed=settings.seed):
        drawn = dataclasses.replace(settings, seed=batch.seeds)

        def write(asked=batch.prompts, drawn=drawn) -> list[np.ndarray]:
            return [np.asarray(text, np.int32) for text in autoregressive(pair, asked, settings=drawn)]

        for index, text in zip(batch.rows, shelf.get(("texts", batch.prompts, batch.seeds), write), strict=False):
            texts[index] = text.tolist()
        done += len(batch.rows)
        progress(done, len(ids))
    return texts


class _Shelf:
    """Lists of arrays under what they were made from: kept in a folder, or made anew where there is none.

    Args:
        folder: of the files; None keeps nothing.
        facts: what all that is kept depends on.
    """

    def __init__(self, folder: Path | None, facts: tuple) -> None:
        self._folder, self._facts = folder, facts

    def get(self, facts: tuple, make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
        """What was kept for these facts, or else what `make` gives, which is kept."""
        if self._folder is None:
            return make()
        file = self._folder / f"{hashlib.sha256(repr((self._facts, facts)).encode()).hexdigest()[:24]}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as arrays:
                return np.split(arrays["rows"], np.cumsum(arrays["lengths"])[:-1])
        made = make()
        _keep(file, made)
        return made


def _keep(file: Path, arrays: Sequence[np.ndarray]) -> None:
    """Write what `_Shelf` reads back."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(rows) for rows in arrays], np.int32)
    with atomic_write(file) as stream:
        np.savez(stream, lengths=lengths, rows=np.concatenate(arrays))
