"""The JSON report: known to be writable before any work, whole or not there at all."""

import json
import math
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from gelato_jax.files import atomic_write, check_writable


class JsonFile:
    """Where a report will go.

    On entry a place that cannot be written is refused, before hours of work; nothing is there until `write`.

    Args:
        path: a file; "-" is standard output; None writes nothing.

    Raises:
        OSError: the path cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        """Touch nothing yet."""
        self._shown = path == "-"
        self._target = None if path in (None, "-") else Path(path).expanduser()

    def __enter__(self) -> "JsonFile":
        """Look whether it can be written."""
        if self._target is not None:
            check_writable(self._target)
        return self

    def write(self, report: dict[str, Any]) -> None:
        """Write a report; numbers that JSON lacks (infinity, NaN) become null."""
        text = json.dumps(_finite(report), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        if self._shown:
            sys.stdout.write(text)
            sys.stdout.flush()
        elif self._target is not None:
            with atomic_write(self._target) as file:
                file.write(text.encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to undo."""


def _finite(value: Any) -> Any:
    """`value` with every float that is no number replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
