"""The JSON report: known to be writable before any work, whole or not there at all."""

import json
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class JsonFile:
    """Where a report will go.

    On entry a hidden file is opened beside the destination, so that a bad path is refused before
    hours of work; `write` renames it. Left without `write`, nothing remains.

    Args:
        path: a file; "-" is standard output; None writes nothing.

    Raises:
        OSError: the path cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        """Touch nothing yet."""
        self._path = path
        self._target: Path | None = None
        self._partial: Path | None = None
        self._stream: TextIO | None = None

    def __enter__(self) -> "JsonFile":
        """Open for writing."""
        if self._path == "-":
            self._stream = sys.stdout
        elif self._path is not None:
            self._open(Path(self._path))
        return self

    def _open(self, path: Path) -> None:
        path = path.expanduser()
        if path.is_file():
            path.open("r+").close()  # refuses a write-protected file, which a rename would replace
        elif path.exists():
            self._stream = path.open("w", encoding="utf-8")  # a pipe or a device; refuses a folder
            return
        self._target = path.resolve()
        self._partial = self._target.with_name(f".{self._target.name}.{os.getpid()}.partial")
        try:
            self._stream = self._partial.open("w", encoding="utf-8")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def write(self, report: dict[str, Any]) -> None:
        """Write a report; numbers that JSON lacks (infinity, NaN) become null."""
        if self._stream is None:
            return
        json.dump(_finite(report), self._stream, ensure_ascii=False, indent=2, allow_nan=False)
        self._stream.write("\n")
        self._stream.flush()
        if self._partial is not None and self._target is not None:
            os.fsync(self._stream.fileno())
            self._partial.replace(self._target)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; remove what was not written whole."""
        if self._stream is not None and self._stream is not sys.stdout:
            self._stream.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """`value` with every float that is no number replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
