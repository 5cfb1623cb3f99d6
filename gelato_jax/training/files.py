"""Files that are whole or not there: a kill must not leave half of one behind."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file, open for writing beside `path`, that takes its place when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a readable JSON file."""
    with replacing(path) as file:
        file.write(f"{json.dumps(value, indent=2, ensure_ascii=False)}\n".encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Contents of a JSON file, or None where there is none."""
    return json.loads(path.read_text("utf-8")) if path.exists() else None
