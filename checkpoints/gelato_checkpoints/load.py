"""Loading: a name or a folder in, configuration, parameters and tokenizer out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gelato_checkpoints import store
from gelato_checkpoints.base import CheckpointError, OnProgress, silent
from gelato_checkpoints.fields import read_json
from gelato_checkpoints.placing import weight_dtype
from gelato_checkpoints.tokenizer import Tokenizer
from gelato_checkpoints.weights import FLOATS, Weights, are_blocks, in_blocks, settle
from gelato_jax.config import ModelConfig
from gelato_kernels import native


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: its folder.
        config: the model.
        parameters: parameter path -> array, as `gelato_jax.models.parameter_shapes` lists them.
        tokenizer: its tokenizer.
        provenance: where the parameters come from.
        dtype: that float weights are to have in memory.
    """

    path: Path
    config: ModelConfig
    parameters: Mapping[str, np.ndarray] = field(repr=False)
    tokenizer: Tokenizer
    provenance: Mapping[str, Any]
    dtype: Any


def load_checkpoint(name: str | Path, *, weights: Weights = "float", progress: OnProgress = silent) -> Checkpoint:
    """Load a checkpoint, fetching and converting it first where that has not been done.

    Args:
        name: a catalog name, `hf:OWNER/NAME`, a checkpoint folder, a Hugging Face folder or a .gguf file.
        weights: how they are kept in memory, see `gelato_checkpoints.weights`.
        progress: told of download, conversion and loading.

    Raises:
        CheckpointError: one line with the fix.
    """
    from gelato_checkpoints.catalog import cache_directory, resolve

    if weights not in ("float", "float32"):
        native.prepare()  # a first start downloads and converts meanwhile
    folder = resolve(name, progress=progress)
    if store.is_draft(folder):
        raise CheckpointError(f"{folder}: is a draft, not a model; name its target as the model and this as the draft")
    store.check_complete(folder)
    chosen = settle(weights, folder, progress)
    if are_blocks(chosen):
        folder = in_blocks(folder, chosen, cache_directory() / "weights", progress)
        store.check_complete(folder)
    config = store.read_config(folder)
    if weights in ("float32", "bfloat16") and config.block_format not in (None, weights):
        raise CheckpointError(
            f"{folder}: its weights are {config.weight_format!r}, not {weights}; "
            "leave --weights out, or name a checkpoint in floats"
        )
    tokenizer = Tokenizer(store.read_tokenizer_spec(folder))
    _check_ids(folder, config, tokenizer)
    parameters = store.read_parameters(folder, progress)
    _check_shapes(folder, config, parameters)
    provenance = read_json(folder / "provenance.json")
    return Checkpoint(
        path=folder,
        config=config,
        parameters=parameters,
        tokenizer=tokenizer,
        provenance=provenance,
        dtype=FLOATS.get(chosen) or weight_dtype(),
    )


def _check_ids(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer whose ids the model has no rows for."""
    spec, rows = tokenizer.spec, config.vocab_size
    for i in (tokenizer.vocab_size - 1, *spec.eos_ids, spec.bos_id, spec.pad_id, spec.eos_id):
        if i is not None and not (isinstance(i, int) and 0 <= i < rows):
            raise CheckpointError(f"{folder}: token id {i!r} is none of the model's 0..{rows - 1}; {store.CONVERT}")


def _check_shapes(folder: Path, config: ModelConfig, parameters: Mapping[str, np.ndarray]) -> None:
    """Refuse parameters that are not exactly those of `config`."""
    from gelato_jax.models import parameter_shapes

    expected = parameter_shapes(config)
    for path in sorted(expected.keys() ^ parameters.keys()):
        state = "missing" if path in expected else "not part of the model"
        raise CheckpointError(f"{folder}: parameter {path!r} is {state}; {store.CONVERT}")
    for path, shape in expected.items():
        if parameters[path].shape != tuple(shape):
            found = parameters[path].shape
            raise CheckpointError(f"{folder}: parameter {path!r} has shape {found}, config.json says {tuple(shape)}")
