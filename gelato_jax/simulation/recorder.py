"""Making a recording: prompts in batches, each rolled out, kept in a folder, and put together in the prompts' order."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gelato_jax.decoding import DecodeSettings, Pair
from gelato_jax.decoding.batching import PromptBatch, prompt_batches
from gelato_jax.decoding.records import DraftModel, with_weights
from gelato_jax.errors import GelatoError
from gelato_jax.simulation.recording import FORMAT, Recording, Rollouts, load, save
from gelato_jax.simulation.rollouts import roll_out
from gelato_jax.training.answers import model_fingerprint

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
    facts = (
        FORMAT,
        model_fingerprint(pair.target),
        _draft_fingerprint(with_weights(pair.draft)),
        pair.eos_ids,
        top_p_mass,
    )

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
        "draft": _draft_fingerprint(with_weights(pair.draft))[:16],
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "top_p_mass": top_p_mass,
        "exits": list(pair.draft.depths),
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
        further=pair.draft.further,
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
