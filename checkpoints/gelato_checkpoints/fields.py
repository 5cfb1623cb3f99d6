"""Named values of a source's files, read with their types checked: what is of another kind is refused in one line."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gelato_checkpoints.base import CheckpointError

_REQUIRED: Any = object()


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        CheckpointError: the file is missing, unreadable or of another encoding.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the folder is not a complete checkpoint") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as text ({error}); download it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, cut short or holds something else.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}, expected a JSON object")
    return value


@dataclass(frozen=True)
class Fields:
    """The fields of one file. A null counts as absent, as transformers reads it.

    Attributes:
        values: name -> value, of any type.
        path: the file, for messages.
        label: what a message calls a field.
    """

    values: Mapping[str, Any]
    path: Path
    label: str = "field"

    def __contains__(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self.values.get(name) is not None

    def refuse(self, name: str, why: str) -> CheckpointError:
        """The error that names a field, its value and what is wrong with it."""
        return CheckpointError(f"{self.path}: {self.label} {name} = {self.values.get(name)!r} {why}")

    def integer(self, name: str, default: Any = _REQUIRED, *, low: int = 1) -> Any:
        """A whole number, at least `low`; `default` where it is absent."""
        value = self._value(name, default)
        if value is default:
            return value
        if not _is_number(value) or value != int(value) or value < low:
            raise self.refuse(name, f"must be a whole number, at least {low}")
        return int(value)

    def decimal(self, name: str, default: Any = _REQUIRED) -> Any:
        """A positive number; `default` where it is absent."""
        value = self._value(name, default)
        if value is default:
            return value
        if not _is_number(value) or value <= 0:
            raise self.refuse(name, "must be a positive number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; `default` where it is absent."""
        return self._typed(name, bool, default, "must be true or false")

    def text(self, name: str, default: Any = None) -> Any:
        """A string; `default` where it is absent."""
        return self._typed(name, str, default, "must be a string")

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Named values, without those that are null; none where the field is absent."""
        values = self._typed(name, Mapping, {}, "must be an object of named values")
        return {key: value for key, value in values.items() if value is not None}

    def ids(self, name: str, below: int) -> tuple[int, ...]:
        """A token id or a list of them, each under `below`; none where the field is absent."""
        value = self._value(name, ())
        ids = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise self.refuse(name, "must be a token id, or a list of them; write ids as numbers")
        if not all(0 <= i < below for i in ids):
            raise self.refuse(name, f"must lie within the vocabulary's 0..{below - 1}; correct it")
        return ids

    def _typed(self, name: str, kind: type, default: Any, why: str) -> Any:
        """A value of one type; `default` where it is absent."""
        value = self._value(name, default)
        if value is not default and not isinstance(value, kind):
            raise self.refuse(name, why)
        return value

    def _value(self, name: str, default: Any) -> Any:
        """A value of any type; `default` where it is absent."""
        if name in self:
            return self.values[name]
        if default is _REQUIRED:
            raise CheckpointError(f"{self.path}: {self.label} {name!r} is missing; download it again")
        return default


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
