"""The checkpoint folder of this project: written whole or not at all.

- `manifest.json`: version of this layout and the size of every other file
- `config.json`: the ModelConfig
- `parameters/`: Orbax, parameter path -> array
- `tokenizer.json`: the `tokenizers` model
- `prompting.json`: chat template and special ids
- `provenance.json`: where the parameters come from

A trained draft has `draft.json` in place of the last three; see `drafts`.
"""

import dataclasses
import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from gelato_checkpoints.base import CheckpointError, OnProgress, TokenizerSpec, one_line, silent
from gelato_checkpoints.fields import read_json
from gelato_jax.config import ModelConfig, RopeScaling

LAYOUT_VERSION = 1
DRAFT_FILE = "draft.json"
_MANIFEST = "manifest.json"
_KIB = 2**10
CONVERT = "convert the checkpoint again"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the layout of this file."""
    return (folder / _MANIFEST).is_file()


def is_draft(folder: Path) -> bool:
    """Whether a folder holds a draft, whole or not."""
    return (folder / DRAFT_FILE).is_file()


def save_checkpoint(
    destination: Path,
    *,
    config: ModelConfig,
    parameters: Mapping[str, np.ndarray],
    tokenizer: TokenizerSpec,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    progress: OnProgress = silent,
) -> Path:
    """Write a checkpoint atomically.

    Args:
        destination: the folder to make; its parents are made too.
        config: the model.
        parameters: path -> array.
        tokenizer: its tokenizer.
        provenance: JSON-able facts about the origin.
        overwrite: replace a checkpoint that is there.
        progress: told when writing starts and ends.

    Returns:
        `destination`.

    Raises:
        CheckpointError: the folder exists, the disk is full, or it cannot be written.
    """
    texts = {
        "prompting.json": as_json(_prompting(tokenizer)),
        "provenance.json": as_json(provenance),
        "tokenizer.json": tokenizer.tokenizer_json,
    }
    with exclusive(destination):
        refuse_existing(destination, overwrite)
        write_files(destination, config, parameters, texts, progress)
    return destination


def write_files(
    destination: Path,
    config: ModelConfig,
    parameters: Mapping[str, np.ndarray],
    texts: Mapping[str, str],
    progress: OnProgress = silent,
) -> None:
    """Write parameters, configuration, `texts` by file name, and the manifest of them all, atomically.

    The caller holds a lock, see `write_atomically`.

    Raises:
        CheckpointError: the disk is full, or the files cannot be written.
    """

    def write(folder: Path) -> None:
        size = sum(array.nbytes for array in parameters.values())
        free = shutil.disk_usage(folder).free
        if free < size:
            raise CheckpointError(f"{destination}: needs {size // _KIB} KiB, the disk has {free // _KIB} KiB free")
        progress("write", 0, len(parameters))
        _write_parameters(folder / "parameters", parameters)
        for name, text in {**texts, "config.json": as_json(dataclasses.asdict(config))}.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / _MANIFEST).write_text(as_json({"layout": LAYOUT_VERSION, "bytes": _sizes(folder)}), encoding="utf-8")
        progress("write", len(parameters), len(parameters))

    write_atomically(destination, write)


def refuse_existing(destination: Path, overwrite: bool) -> None:
    """Refuse a destination that exists, unless it is a checkpoint that may be replaced."""
    if not destination.exists():
        return
    if not overwrite:
        raise CheckpointError(f"{destination}: exists; remove it, choose another folder, or ask to overwrite")
    if not is_checkpoint(destination):
        raise CheckpointError(f"{destination}: is not a checkpoint of this project and is not overwritten; remove it")


@contextmanager
def exclusive(destination: Path) -> Iterator[None]:
    """Let one process at a time make `destination`; the others wait."""
    from filelock import FileLock

    with one_line(destination, "written"):
        destination.parent.mkdir(parents=True, exist_ok=True)
        path = destination.parent / f".{destination.name}.lock"
        lock = FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # removed while held: a waiting process sees that the file is gone and makes its own
            path.unlink()
        lock.release()


def write_atomically(destination: Path, write: Callable[[Path], None]) -> None:
    """Fill a hidden sibling folder by `write`, then rename it; what an earlier interruption left is removed first.

    The caller holds `exclusive(destination)`, so a partial folder found here belongs to nobody.
    """
    partial = f".{destination.name}.partial-"
    with one_line(destination, "written"):
        for leftover in destination.parent.glob(f"{glob.escape(partial)}*"):
            shutil.rmtree(leftover)
        folder = destination.parent / f"{partial}{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        try:
            write(folder)
            _sync(folder)
            _replace(destination, folder, destination.parent / f"{partial}replaced")
            _sync_path(destination.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _replace(destination: Path, folder: Path, aside: Path) -> None:
    """Rename `folder` to `destination`; what was there waits at `aside` until that has worked."""
    if destination.exists():
        destination.rename(aside)
    try:
        folder.rename(destination)
    except BaseException:
        if aside.exists():
            aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def move_into(folder: Path, destination: Path) -> None:
    """Move a filled folder's entries over those of `destination`, whose other files stay.

    The old manifest goes first and the new one comes last: what an interruption leaves is no checkpoint.
    """
    with one_line(destination, "written"):
        (destination / _MANIFEST).unlink(missing_ok=True)
        for entry in sorted(folder.iterdir(), key=lambda path: path.name == _MANIFEST):
            if (destination / entry.name).is_dir():
                shutil.rmtree(destination / entry.name)
            entry.replace(destination / entry.name)
        folder.rmdir()
        _sync_path(destination)


def _sync(folder: Path) -> None:
    """Bring every file and folder under `folder` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_path(Path(parent, name))
        _sync_path(Path(parent))


def _sync_path(path: Path) -> None:
    """Bring one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_json(value: Mapping[str, Any]) -> str:
    """The text of a readable JSON file."""
    return json.dumps(dict(value), indent=2, ensure_ascii=False) + "\n"


def _prompting(tokenizer: TokenizerSpec) -> dict[str, Any]:
    """A tokenizer's settings beside its tokenizer.json."""
    fields = dataclasses.asdict(tokenizer)
    del fields["tokenizer_json"]
    return fields


def _sizes(folder: Path) -> dict[str, int]:
    """Relative path -> bytes of every file under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def check_complete(folder: Path, fix: str = CONVERT) -> None:
    """Refuse a folder of another layout, or one whose files are not those that were written.

    Damage inside a file of the right size is found by Orbax where it strikes the index of the arrays; their own
    bytes have no checksum. `fix` is what the message advises.

    Raises:
        CheckpointError: names the file and both sizes.
    """
    manifest = read_json(folder / _MANIFEST)
    version, found = manifest.get("layout"), _sizes(folder)
    if version != LAYOUT_VERSION:
        path = folder / _MANIFEST
        raise CheckpointError(f"{path}: layout version {version}, this release reads {LAYOUT_VERSION}: {fix}")
    for name, size in manifest.get("bytes", {}).items():
        if found.get(name) != size:
            state = f"has {found[name]} bytes" if name in found else "is missing"
            raise CheckpointError(f"{folder / name}: {state}, {size} bytes were written: {fix}")


def _handler() -> Any:
    """The Orbax handler of `parameters/`: a few large files, uncompressed, since every start waits for them."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False, use_compression=False)


def _write_parameters(folder: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Write the arrays; errors of the storage layer become one line."""
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(_handler()) as checkpointer:
            checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(dict(parameters)))
        # A path of this machine, of no use to a reader; a checkpoint may be published.
        (folder / "commit_success.txt").unlink(missing_ok=True)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be written: {str(error).splitlines()[0]}") from error


def read_parameters(folder: Path, progress: OnProgress = silent, fix: str = CONVERT) -> dict[str, np.ndarray]:
    """Read the parameters of a checkpoint folder.

    Args:
        folder: the checkpoint.
        progress: told when reading starts and ends.
        fix: what an error's message advises.

    Returns:
        Parameter path -> NumPy array of the type that was written.

    Raises:
        CheckpointError: an array is damaged or missing.
    """
    import orbax.checkpoint as ocp

    path = (folder / "parameters").absolute()
    try:
        with ocp.Checkpointer(_handler()) as checkpointer:
            progress("load", 0, 0)
            parameters = checkpointer.restore(path)  # as it was saved: NumPy arrays by name
    except Exception as error:  # the storage layer has no error class of its own
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: not readable ({first}); {fix}") from error
    progress("load", len(parameters), len(parameters))
    return parameters


def read_config(folder: Path, fix: str = CONVERT) -> ModelConfig:
    """Read a checkpoint's ModelConfig; `fix` is what an error's message advises.

    Raises:
        CheckpointError: the file does not describe a model of this release.
    """
    path = folder / "config.json"
    fields = read_json(path)
    try:
        if fields.get("rope_scaling"):
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        return ModelConfig(**{**fields, "exits": tuple(fields["exits"])})
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}; {fix}") from None


def read_tokenizer_spec(folder: Path) -> TokenizerSpec:
    """Read a checkpoint's tokenizer."""
    fields = read_json(folder / "prompting.json")
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        return TokenizerSpec(tokenizer_json=text, **{**fields, "eos_ids": tuple(fields["eos_ids"])})
    except (OSError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'tokenizer.json'}: not readable ({error}); convert again") from None
