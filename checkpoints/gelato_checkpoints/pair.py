"""A target and its draft by name: what `gelato_jax.generate` decodes with."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gelato_checkpoints.base import CheckpointError, Progress, silent
from gelato_checkpoints.catalog import DEFAULT_MODEL
from gelato_checkpoints.load import Checkpoint, load_checkpoint
from gelato_jax.decoding import DraftModel, Pair, first_layers, make_draft
from gelato_jax.models import Model

DEFAULT_DRAFT = "layers:6"
"""Until a trained draft ships: the target's own first layers."""

_LAYERS = "layers:"


def load_model(checkpoint: Checkpoint) -> Model:
    """Put a checkpoint's weights on the default device: bfloat16 on an accelerator, float32 on a CPU.

    (XLA widens bfloat16 weights on a CPU at every step: slower than float32, for half the memory.)
    """
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    params = {path: _place(array, dtype) for path, array in checkpoint.parameters.items()}
    return Model(config=checkpoint.config, params=params)


def _place(array: np.ndarray | jax.ShapeDtypeStruct, dtype: DTypeLike) -> Any:
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, dtype)
    return jnp.asarray(array, dtype)


def load_pair(
    target: str | Path = DEFAULT_MODEL,
    draft: str | Path | None = None,
    *,
    outline: bool = False,
    progress: Progress = silent,
) -> Pair:
    """Load a target and its draft, fetching and converting them first where that has not been done.

    Args:
        target: a catalog name, `hf:OWNER/NAME`, a folder or a .gguf file.
        draft: the same, or `layers:K` for the target's first K layers; None is the target's default draft.
        outline: leave the weights on the disk; such a pair can be compiled for (`gelato_jax.prepare`), not run.
        progress: told of download, conversion and loading.

    Returns:
        The pair, on the default device.

    Raises:
        CheckpointError: a name is unknown, a step failed, or the two models speak different vocabularies.
    """
    checkpoint = load_checkpoint(target, outline=outline, progress=progress)
    model = load_model(checkpoint)
    choice = str(DEFAULT_DRAFT if draft is None else draft)
    if choice.startswith(_LAYERS):
        draft_model = _first_layers(model, choice)
    else:
        draft_model = _other_model(checkpoint, load_checkpoint(choice, outline=outline, progress=progress))
    return Pair(
        name=str(target),
        target=model,
        draft=draft_model,
        tokenizer=checkpoint.tokenizer,
        eos_ids=checkpoint.tokenizer.eos_ids,
    )


def _first_layers(target: Model, choice: str) -> DraftModel:
    """The draft that `layers:K` names, with exits after each third of its layers."""
    count = choice.removeprefix(_LAYERS)
    deepest = target.config.num_layers
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= deepest:
        raise CheckpointError(f"draft {choice!r}: K must be a whole number in 1..{deepest}, the target's layers")
    layers = int(count)
    exits = sorted({layers // 3, 2 * layers // 3} - {0, layers})
    return first_layers(target, layers, exits)


def _other_model(target: Checkpoint, draft: Checkpoint) -> DraftModel:
    """A checkpoint as the draft of another."""
    if draft.tokenizer.fingerprint != target.tokenizer.fingerprint:
        raise CheckpointError(
            f"draft {draft.path} and target {target.path} have different vocabularies "
            f"({draft.tokenizer.vocab_size} and {target.tokenizer.vocab_size} ids); take a draft of the same family"
        )
    return make_draft(load_model(draft))
