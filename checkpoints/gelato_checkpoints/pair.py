"""A target and its draft by name: what `gelato_jax.generate` decodes with."""

import dataclasses
from pathlib import Path

from gelato_checkpoints import store
from gelato_checkpoints.base import CheckpointError, OnProgress, silent
from gelato_checkpoints.catalog import DEFAULT_MODEL
from gelato_checkpoints.drafts import load_draft, shipped_draft
from gelato_checkpoints.load import Checkpoint, load_checkpoint
from gelato_checkpoints.placing import place
from gelato_checkpoints.weights import Weights
from gelato_jax.config import CacheType
from gelato_jax.decoding import DraftModel, Lookup, Pair, first_layers, lookup, make_draft
from gelato_jax.models import Model, parameter_outlines

FALLBACK_LAYERS = 6
"""Of the target's own first layers: the draft of a target for which no trained one ships."""

LOOKUP = "lookup"
"""The draft without weights."""

_LAYERS = "layers:"


def load_model(checkpoint: Checkpoint) -> Model:
    """Put a checkpoint's weights on the default device, floats in the checkpoint's `dtype`.

    A model with weights of few bits keeps them, and float32 for the rest.
    """
    config = checkpoint.config
    kept = parameter_outlines(config) if config.weight_format != "float" else {}
    params = {
        path: place(array, kept[path].dtype if kept else checkpoint.dtype)
        for path, array in checkpoint.parameters.items()
    }
    return Model(config=config, params=params)


def load_pair(
    target: str | Path = DEFAULT_MODEL,
    draft: str | Path | None = None,
    *,
    weights: Weights = "auto",
    cache: CacheType = "auto",
    progress: OnProgress = silent,
) -> Pair:
    """Load a target and its draft, fetching and converting them first where that has not been done.

    Args:
        target: a catalog name, `hf:OWNER/NAME`, a folder or a .gguf file.
        draft: a folder of `save_draft`, any model of the target's vocabulary named as the target is, `layers:K`
            for the target's first K layers, or `lookup` for none at all: text that repeats is looked up. None is the
            trained draft that ships for the target, or its first `FALLBACK_LAYERS` layers where there is none.
        weights: how they are kept in memory, see `gelato_checkpoints.weights`; a trained draft follows its target.
        cache: type of keys and values, of both models.
        progress: told of download, conversion and loading, with `untrained` of a fallback, and with `shorter` of a
            draft whose context is shorter than the target's.

    Returns:
        The pair, on the default device. Its target has the shorter context of the two: prompts and answers beyond it
        are refused.

    Raises:
        CheckpointError: a name is unknown, a step failed, or draft and target do not belong together.
    """
    checkpoint = load_checkpoint(target, weights=weights, progress=progress)
    model = load_model(checkpoint).with_cache(cache)
    choice = shipped_draft(checkpoint) if draft is None else draft
    if choice is None:
        choice = f"{_LAYERS}{min(FALLBACK_LAYERS, model.config.num_layers)}"
        progress("untrained", 0, 0)
    if choice == LOOKUP:
        return _pair(target, checkpoint, model, lookup())
    if str(choice).startswith(_LAYERS):
        draft_model = _first_layers(model, str(choice))
    elif store.is_draft(folder := Path(choice).expanduser()):
        draft_model = load_draft(folder, checkpoint, model, progress=progress)
    else:
        draft_model = _other_model(checkpoint, load_checkpoint(choice, weights=weights, progress=progress))
    draft_model = dataclasses.replace(draft_model, model=draft_model.model.with_cache(cache))
    positions = draft_model.model.config.max_positions
    if positions < model.config.max_positions:
        progress("shorter", positions, model.config.max_positions)
    return _pair(target, checkpoint, _limited(model, positions), draft_model)


def _pair(name: str | Path, checkpoint: Checkpoint, target: Model, draft: DraftModel | Lookup) -> Pair:
    tokenizer = checkpoint.tokenizer
    return Pair(name=str(name), target=target, draft=draft, tokenizer=tokenizer, eos_ids=tokenizer.eos_ids)


def _first_layers(target: Model, choice: str) -> DraftModel:
    """The draft that `layers:K` names, with exits after each third of its layers."""
    count = choice.removeprefix(_LAYERS)
    deepest = target.config.num_layers
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= deepest:
        raise CheckpointError(f"draft {choice!r}: K must be a whole number in 1..{deepest}, the target's layers")
    layers = int(count)
    exits = sorted({layers // 3, 2 * layers // 3} - {0, layers})
    return first_layers(target, layers, exits)


def _limited(target: Model, positions: int) -> Model:
    """The target with a context of `positions` at most: a draft has learnt nothing of those beyond its own."""
    shorter = min(positions, target.config.max_positions)
    return dataclasses.replace(target, config=dataclasses.replace(target.config, max_positions=shorter))


def _other_model(target: Checkpoint, draft: Checkpoint) -> DraftModel:
    """A checkpoint as the draft of another."""
    if draft.tokenizer.fingerprint != target.tokenizer.fingerprint:
        raise CheckpointError(
            f"draft {draft.path} and target {target.path} have different vocabularies "
            f"({draft.tokenizer.vocab_size} and {target.tokenizer.vocab_size} ids); take a draft of the same family"
        )
    return make_draft(load_model(draft))
