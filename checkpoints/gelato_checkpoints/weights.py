"""How a checkpoint's weights are kept in memory: in floats as they were converted, or in blocks.

Blocks are made once, beside the models that were fetched, and read from there afterwards.
"""

import hashlib
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gelato_checkpoints import store
from gelato_checkpoints.base import CheckpointError, OnProgress, silent
from gelato_checkpoints.fields import read_json
from gelato_kernels import native

Weights = Literal["auto", "float", "float32", "bfloat16", "q8", "q4", "source"]
"""`float`: float32 on a CPU, bfloat16 on an accelerator. `q8`, `q4`: 8 or 4 bits and a scale for every 32 inputs.
`source`: the blocks of the GGUF file that was converted, bit for bit where they are Q4_1 or Q8_0, else `q8`. `auto`: on
a CPU with the compiled kernels `source` for such a file, `bfloat16` for a checkpoint stored so; else `float`. There
`bfloat16` lies in blocks too."""

_FORMAT = b"2"
"""Of what is kept: layers in stacks."""

FLOATS = {"float": None, "float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Choices that leave a checkpoint as it is stored, and the type in memory; None: the device's own."""


def settle(weights: Weights, folder: Path, progress: OnProgress = silent) -> Weights:
    """What `auto` means for a checkpoint on this machine; other choices stay.

    Args:
        weights: as asked for.
        folder: the checkpoint.
        progress: told `uncompiled` where only a compiler is missing for blocks.
    """
    if weights != "auto":
        return weights
    chosen = _of_source(folder)
    if jax.default_backend() != "cpu" or chosen == "float":
        return "float"
    if native.available():
        return chosen
    progress("uncompiled", 0, 0)
    return "float"


def _of_source(folder: Path) -> Weights:
    """What loses nothing of what a float checkpoint was converted from."""
    provenance = read_json(folder / "provenance.json")
    if store.read_config(folder).weight_format != "float":
        return "float"
    if any(str(kind).startswith("Q") for kind in provenance.get("source_types", [])):
        return "source"
    return "bfloat16" if provenance.get("dtype") == "bfloat16" else "float"


def are_blocks(weights: Weights) -> bool:
    """Whether a choice, other than `auto`, is kept in blocks on this machine."""
    if weights == "bfloat16":
        return jax.default_backend() == "cpu" and native.available()
    return weights not in FLOATS


def in_blocks(folder: Path, weights: Weights, cache: Path, progress: OnProgress = silent) -> Path:
    """A checkpoint with its weights in blocks: made if it is not there.

    Args:
        folder: the checkpoint in floats.
        weights: `q8`, `q4`, `bfloat16` or `source`.
        cache: folder that keeps what is made.
        progress: told of reading, `pack` (one step) and writing.

    Returns:
        The folder of the other checkpoint.

    Raises:
        CheckpointError: the checkpoint's weights are not floats, or a step failed.
    """
    config = store.read_config(folder)
    if config.weight_format != "float":
        raise CheckpointError(
            f"{folder}: its weights are {config.weight_format!r} already; leave --weights out, or name one in floats"
        )
    destination = cache / f"{folder.resolve().name}-{weights}-{_digest(folder)}"
    if not destination.is_dir():
        with store.exclusive(destination.with_name(f".{destination.name}.packing")):
            if not destination.is_dir():
                _pack(folder, weights, destination, progress)
    return destination


def _digest(folder: Path) -> str:
    """Changes when the checkpoint does."""
    facts = (folder / "provenance.json").read_bytes() + str(folder.resolve()).encode() + _FORMAT
    return hashlib.sha256(facts).hexdigest()[:12]


def _pack(folder: Path, weights: Weights, destination: Path, progress: OnProgress) -> None:
    from gelato_jax.models import Model, quantize, restore_blocks

    parameters = store.read_parameters(folder, progress)
    progress("pack", 0, 0)
    floats = {path: jnp.asarray(array, jnp.float32) for path, array in parameters.items()}
    model = Model(config=store.read_config(folder), params=floats)
    packed = quantize(model, weights) if weights in ("q8", "q4", "bfloat16") else restore_blocks(model)
    store.save_checkpoint(
        destination,
        config=packed.config,
        parameters={path: np.asarray(array) for path, array in packed.params.items()},
        tokenizer=store.read_tokenizer_spec(folder),
        provenance={**read_json(folder / "provenance.json"), "weights": packed.config.weight_format},
        progress=progress,
    )
