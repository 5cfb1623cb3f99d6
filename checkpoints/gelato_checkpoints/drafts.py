"""Trained drafts: their checkpoints, and those that ship with this package.

A draft folder is a checkpoint folder (see `store`) whose parameters lack `embed.embedding`, which
is the target's own, and have `vocabulary`, the ids of the head's rows. It has no tokenizer;
`draft.json` says which target it drafts for, what its entropy says, and where it comes from.
"""

import dataclasses
import importlib.resources
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gelato_checkpoints import store
from gelato_checkpoints.base import CheckpointError, OnProgress, one_line, silent
from gelato_checkpoints.fields import read_json
from gelato_checkpoints.load import Checkpoint
from gelato_checkpoints.placing import place, weight_dtype
from gelato_jax.config import ModelConfig
from gelato_jax.decoding import DraftModel, make_draft
from gelato_jax.models import Model, parameter_outlines, quantize
from gelato_jax.types import KNOWN_POSITIONS, Calibration, Calibrations, RepeatOdds, RepeatOddsSet

_EMBEDDING = "embed.embedding"
_VOCABULARY = "vocabulary"
_SCRATCH = ".draft"
_FIX = "train the draft again"

_Both = TypeVar("_Both")


def save_draft(
    destination: str | Path,
    draft: DraftModel,
    *,
    target: str,
    target_fingerprint: str,
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any],
    overwrite: bool = False,
    progress: OnProgress = silent,
) -> Path:
    """Write a draft; other files of the folder stay. An interruption leaves a folder that is no draft.

    Args:
        destination: the folder; made where it is not there.
        draft: decoder, vocabulary and calibrations; arrays are stored in the types they have.
        target: what the target is called.
        target_fingerprint: of the target's tokenizer.
        provenance: JSON-able facts about its making.
        metrics: JSON-able figures of what it does.
        overwrite: replace a draft that is there.
        progress: told when writing starts and ends.

    Returns:
        `destination`.

    Raises:
        CheckpointError: there is a draft or another checkpoint already, or it cannot be written.
    """
    destination = Path(destination)
    parameters = {path: array for path, array in draft.model.params.items() if path != _EMBEDDING}
    if draft.vocabulary is not None:
        parameters[_VOCABULARY] = draft.vocabulary
    about = {
        "target": target,
        "target_fingerprint": target_fingerprint,
        "calibration": {
            "greedy": _as_lists(draft.calibration.greedy.stored()),
            "sampled": _as_lists(draft.calibration.sampled.stored()),
        },
        "repeats": None if draft.repeats is None else _as_lists(dataclasses.asdict(draft.repeats)),
        "provenance": dict(provenance),
        "metrics": dict(metrics),
    }
    arrays = {path: np.asarray(array) for path, array in parameters.items()}
    texts = {store.DRAFT_FILE: store.as_json(about)}
    with store.exclusive(destination):
        _refuse_existing(destination, overwrite)
        with one_line(destination, "written"):
            destination.mkdir(exist_ok=True)
        scratch = destination / _SCRATCH
        store.write_files(scratch, draft.model.config, arrays, texts, progress)
        store.move_into(scratch, destination)
    return destination


def _as_lists(arrays: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries of arrays as dictionaries of lists of numbers."""
    return jax.tree.map(lambda array: np.asarray(array).tolist(), arrays)


def _refuse_existing(destination: Path, overwrite: bool) -> None:
    """Refuse a folder with a checkpoint in it, unless it is a draft that may be replaced; other files do no harm."""
    if not store.is_checkpoint(destination):
        return
    if not store.is_draft(destination):
        raise CheckpointError(f"{destination}: holds a model's checkpoint; choose another folder")
    if not overwrite:
        raise CheckpointError(f"{destination}: holds a draft; choose another folder, or ask to overwrite")


def load_draft(
    folder: str | Path,
    target: Checkpoint,
    target_model: Model,
    *,
    progress: OnProgress = silent,
) -> DraftModel:
    """Load a draft onto the default device, its input embedding the target's own array.

    8-bit weights stay 8-bit, with everything else of such a draft in float32; a draft of floats becomes
    float32 on a CPU and bfloat16 elsewhere. For a target in blocks, of any format, it is brought to blocks of 8 bits.

    Args:
        folder: written by `save_draft`.
        target: the checkpoint that it drafts for.
        target_model: the same, as loaded.
        progress: told when reading starts and ends.

    Raises:
        CheckpointError: it was trained for another tokenizer or width, or is damaged; one line.
    """
    folder = Path(folder)
    store.check_complete(folder, _FIX)
    about, config = read_json(folder / store.DRAFT_FILE), store.read_config(folder, _FIX)
    _check_target(folder, about, config, target)
    exits = len(config.exits)
    calibration = _read_distributions(
        folder / store.DRAFT_FILE, about, "calibration", Calibrations, _read_calibration, exits
    )
    repeats = None
    if about.get("repeats") is not None:
        repeats = _read_distributions(folder / store.DRAFT_FILE, about, "repeats", RepeatOddsSet, _read_odds, exits)
    wanted = _wanted(config)
    arrays = store.read_parameters(folder, progress, _FIX)
    _check_parameters(folder, wanted, arrays)
    _check_vocabulary(folder, arrays.get(_VOCABULARY), target.config.valid_outputs)
    params = {path: place(array, wanted[path].dtype) for path, array in arrays.items()}
    vocabulary = params.pop(_VOCABULARY, None)
    model = Model(config=config, params=params)
    if target_model.config.block_format:
        model = quantize(model, "q8")  # a draft without its embedding, which stays in the target's format
    config = dataclasses.replace(model.config, embedding_format=target_model.config.head_format)
    shared = {path: array for path, array in target_model.params.items() if path.startswith("embed.")}
    return make_draft(Model(config=config, params={**model.params, **shared}), calibration, vocabulary, repeats)


def shipped_drafts() -> dict[str, Path]:
    """The drafts that ship with this package: name of the target -> folder."""
    root = _shipped_root()
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return {folder.name: folder for folder in folders if store.is_draft(folder)}


def shipped_draft(target: Checkpoint) -> Path | None:
    """The folder of the draft that ships for a target, or None: one of its tokenizer and of its width."""
    for folder in shipped_drafts().values():
        if read_json(folder / store.DRAFT_FILE).get("target_fingerprint") == target.tokenizer.fingerprint:
            config = store.read_config(folder, _FIX)
            if _widths(config) == _widths(target.config):
                return folder
    return None


def _shipped_root() -> Path:
    """Where the package keeps its drafts."""
    return Path(str(importlib.resources.files("gelato_checkpoints"))) / "drafts_data"


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Rows and columns of the input embedding."""
    return config.vocab_size, config.hidden_size


def _check_target(folder: Path, about: Mapping[str, Any], config: ModelConfig, target: Checkpoint) -> None:
    """Refuse a draft whose ids or whose input embedding are not the target's."""
    name, trained, ours = about.get("target"), about.get("target_fingerprint"), target.tokenizer.fingerprint
    if trained != ours:
        raise CheckpointError(
            f"draft {folder}: trained for {name}, tokenizer {str(trained)[:12]}; target {target.path} has {ours[:12]}: "
            "take a draft trained for this target"
        )
    if _widths(config) != _widths(target.config):
        raise CheckpointError(
            f"draft {folder}: trained for {name}, input embedding {_widths(config)}; target {target.path} has "
            f"{_widths(target.config)}: take a draft trained for this target"
        )


def _wanted(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and type in memory of everything that a draft's checkpoint holds."""
    wanted = parameter_outlines(config)
    del wanted[_EMBEDDING]
    if config.weight_format == "float":
        wanted = {path: jax.ShapeDtypeStruct(one.shape, weight_dtype()) for path, one in wanted.items()}
    if config.head_vocab_size is not None:
        wanted[_VOCABULARY] = jax.ShapeDtypeStruct((config.head_vocab_size,), jnp.int32)
    return wanted


def _check_parameters(
    folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct], arrays: Mapping[str, np.ndarray]
) -> None:
    """Refuse parameters that are not exactly those of the configuration, in shape and kind of type."""
    for path in sorted(wanted.keys() ^ arrays.keys()):
        state = "missing" if path in wanted else "not part of the draft"
        raise CheckpointError(f"{folder}: parameter {path!r} is {state}; {_FIX}")
    for path, outline in wanted.items():
        found, name = arrays[path], f"{folder}: parameter {path!r}"
        if found.shape != outline.shape:
            raise CheckpointError(f"{name} has shape {found.shape}, expected {outline.shape}; {_FIX}")
        is_float = jnp.issubdtype(outline.dtype, jnp.floating)
        if found.dtype != outline.dtype and not (is_float and jnp.issubdtype(found.dtype, jnp.floating)):
            expected = "a float" if is_float else outline.dtype
            raise CheckpointError(f"{name} is {found.dtype}, expected {expected}; {_FIX}")


def _check_vocabulary(folder: Path, vocabulary: np.ndarray | None, known: int) -> None:
    """Refuse ids that do not ascend, or that the target does not have."""
    if vocabulary is None:
        return
    if np.any(np.diff(vocabulary) <= 0) or vocabulary[0] < 0 or vocabulary[-1] >= known:
        bounds = f"{vocabulary.min()}..{vocabulary.max()}"
        raise CheckpointError(f"{folder}: vocabulary {bounds} must ascend within the target's 0..{known - 1}; {_FIX}")


def _read_distributions(
    path: Path,
    about: Mapping[str, Any],
    name: str,
    pair: Callable[..., _Both],
    read: Callable[[Mapping[str, Any], int], Any],
    exits: int,
) -> _Both:
    """What a draft.json holds for greedy and for sampled decoding, of like shapes."""
    try:
        both = {distribution: read(about[name][distribution], exits) for distribution in ("greedy", "sampled")}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {name}: {' '.join(str(error).split())}; {_FIX}") from None
    shapes = {distribution: [array.shape for array in jax.tree.leaves(one)] for distribution, one in both.items()}
    if shapes["greedy"] != shapes["sampled"]:
        raise CheckpointError(
            f"{path}: {name}: greedy {shapes['greedy']}, sampled {shapes['sampled']}: must agree; {_FIX}"
        )
    return pair(**both)


def _read_calibration(fields: Mapping[str, Any], exits: int) -> Calibration:
    """One calibration out of lists of numbers.

    Raises:
        ValueError: a field has not the shape that it must have, or a number is not finite.
    """
    classes = len(fields["class_edges"]) + 1
    shapes = {
        "scale": (exits,),
        "decay": (exits,),
        "mean_acceptance": (),
        "class_edges": (classes - 1,),
        "class_acceptance": (exits, classes),
        "next_acceptance": (classes,),
        "deeper_acceptance": (exits, classes, exits),
        Calibration.stored_name("conditional_acceptance"): (KNOWN_POSITIONS,),
    }
    return Calibration.restored(_numbers(fields, shapes))


def _read_odds(fields: Mapping[str, Any], exits: int) -> RepeatOdds:
    """One distribution's odds of repeats out of lists of numbers; errors as `_read_calibration`."""
    longest = len(fields["unseen"])
    return RepeatOdds(**_numbers(fields, {"slope": (exits, longest), "offset": (exits, longest), "unseen": (longest,)}))


def _numbers(fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    """Fields of those shapes as arrays."""
    arrays = {name: np.asarray(fields[name], np.float32) for name in shapes}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has shape {arrays[name].shape}, must be {shape} finite numbers")
    return {name: jnp.asarray(array) for name, array in arrays.items()}
