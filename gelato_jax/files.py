"""Files that are whole or not there: a kill or a full disk must not leave half of one behind."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file, open for writing beside `path`, that takes its place when the block ends without an error.

    Until then, and after an error, `path` is as it was. Where it is a link, what it points to is replaced; a pipe or
    a device is written as it is.

    Raises:
        OSError: the file cannot be written; names `path`.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        with path.open("wb") as file:  # refuses a folder
            yield file
        return
    scratch = _beside(target)
    file = _open_new(scratch, path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a place that `atomic_write` cannot write, before the work whose result goes there.

    Raises:
        OSError: names `path`.
    """
    target = path.resolve()
    if target.is_file() or target.is_dir():
        path.open("r+b").close()  # refuses a folder, and a write-protected file, which a rename would replace
    if not target.exists() or target.is_file():
        scratch = _beside(target)
        _open_new(scratch, path).close()
        scratch.unlink()


def _beside(target: Path) -> Path:
    """A hidden name in the same folder, so that a rename is all that is left to do; no two writers share one."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")


def _open_new(scratch: Path, path: Path) -> BinaryIO:
    """Open a file that is not there yet; an error names the path that the user knows."""
    try:
        return scratch.open("xb")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a readable JSON file."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Contents of a JSON file, or None where there is none."""
    return json.loads(path.read_text("utf-8")) if path.exists() else None
