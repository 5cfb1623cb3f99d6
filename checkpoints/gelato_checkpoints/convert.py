"""Conversion of a Hugging Face folder or a GGUF file into a checkpoint of this project."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Literal

import numpy as np

from gelato_checkpoints import store
from gelato_checkpoints.base import CheckpointError, OnProgress, Source, one_line, silent
from gelato_checkpoints.keymaps import convert_tensors
from gelato_checkpoints.tokenizer import Tokenizer

DType = Literal["float32", "bfloat16", "auto"]

_HASH_BLOCK = 2**22  # bytes read at a time; assumed
_VERSIONS_OF = ("gelato-jax", "gguf", "safetensors", "orbax-checkpoint", "numpy")


def open_source(path: Path) -> Source:
    """Open a Hugging Face folder or a GGUF file, told apart by what they are on disk.

    Raises:
        CheckpointError: it is neither, or cannot be read.
    """
    if path.is_dir():
        from gelato_checkpoints.huggingface import open_huggingface

        return _with_known_ids(open_huggingface(path))
    if path.suffix == ".gguf":
        from gelato_checkpoints.gguf_file import open_gguf

        return _with_known_ids(open_gguf(path))
    found = f"a {path.suffix or 'plain'} file" if path.exists() else "nothing there"
    raise CheckpointError(f"{path}: {found}; expected a Hugging Face folder or a .gguf file")


def _with_known_ids(source: Source) -> Source:
    """Tell the config how many rows of its vocabulary the tokenizer knows: the rest are padding."""
    known, rows = Tokenizer(source.tokenizer).vocab_size, source.config.vocab_size
    if known > rows:
        raise CheckpointError(f"{source.files[0]}: vocab_size {rows} is below the tokenizer's {known} ids")
    config = dataclasses.replace(source.config, known_vocab_size=known if known < rows else None)
    return dataclasses.replace(source, config=config)


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    dtype: DType = "float32",
    overwrite: bool = False,
    label: str | None = None,
    progress: OnProgress = silent,
) -> Path:
    """Convert a checkpoint.

    The result appears whole or not at all: it is written beside `destination` and renamed.
    Memory: the parameters in `dtype`, and one of them in the type of its source.

    Args:
        source: Hugging Face folder or .gguf file.
        destination: folder to make.
        dtype: type of the stored parameters; `auto` keeps bfloat16 where every source tensor has it, else float32.
        overwrite: replace a checkpoint that is there.
        label: what the provenance calls the source; its path by default.
        progress: told of checksums, tensors and writing.

    Returns:
        `destination`.

    Raises:
        CheckpointError: one line naming the file and the tensor, the value and the fix.
    """
    source, destination = Path(source), Path(destination)
    store.refuse_existing(destination, overwrite)
    with one_line(source, "read"):
        opened = open_source(source)
        chosen = _storage_dtype(opened, dtype)
        checksums = {file.name: sha256(file, progress) for file in opened.files}
        parameters = convert_tensors(opened, _numpy_dtype(chosen), progress)
    provenance = {
        "source": label or str(source.resolve()),
        "format": opened.format,
        "sha256": checksums,
        "source_types": sorted({tensor.dtype for tensor in opened.tensors.values()}),
        "ignored_tensors": dict(opened.ignored),
        "dtype": chosen,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    return store.save_checkpoint(
        destination,
        config=opened.config,
        parameters=parameters,
        tokenizer=opened.tokenizer,
        provenance=provenance,
        overwrite=overwrite,
        progress=progress,
    )


def _storage_dtype(source: Source, dtype: DType) -> str:
    """The type to store: `auto` loses nothing and wastes nothing."""
    if dtype in ("float32", "bfloat16"):
        return dtype
    if dtype != "auto":
        raise CheckpointError(f"dtype {dtype!r} is not one of float32, bfloat16, auto")
    return "bfloat16" if all(tensor.dtype == "BF16" for tensor in source.tensors.values()) else "float32"


def _numpy_dtype(name: str) -> np.dtype:
    """A NumPy type by name, bfloat16 included."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def sha256(path: Path, progress: OnProgress = silent) -> str:
    """Hex SHA-256 of a file; `progress` hears of the bytes read under `check`."""
    digest, total, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
            done += len(block)
            progress("check", done, total)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    """Versions of the packages that took part, as far as they are installed."""
    versions = {}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
