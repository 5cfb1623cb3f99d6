"""A study's table and settings as files: rows as CSV that comes back as it was, settings as JSON."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from gelato_experiments.study import Row
from gelato_jax.files import atomic_write

Value: TypeAlias = "int | float | str | bool | None"
_WORDS: dict[str, Value] = {"": None, "True": True, "False": False}


def as_json(value: Any) -> Any:
    """Settings as JSON: records become objects, tuples lists, paths text, numbers that JSON lacks their names.

    Raises:
        TypeError: a value of another kind.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    value = _plain(value, "a setting")
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table so that `read_rows` gives the same values of the same types.

    Numbers are written in full; text that would be read as something else stands in JSON's quotes; None is empty.

    Args:
        path: the .csv file.
        rows: the columns are the union of theirs, in order of appearance; what a row lacks becomes None.

    Raises:
        TypeError: a value is no number, text, bool or None.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as file:
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_written(row.get(name), name) for name in columns])
        file.write(lines.getvalue().encode())


def read_rows(path: Path) -> list[Row]:
    """Read a table that `write_rows` wrote.

    Raises:
        OSError: there is no such file.
        GelatoError: it is no such table.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        columns = next(lines, [])
        return [{name: _read(cell) for name, cell in zip(columns, line, strict=True)} for line in lines]


def _plain(value: Any, what: str) -> Value:
    """A number, text, bool or None as Python's own; NumPy's and JAX's scalars become such."""
    if getattr(value, "shape", None) == ():
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(f"{what} is a {type(value).__name__}, must be a number, text, bool or None")


def _written(value: Any, column: str) -> str:
    cell = _plain(value, f"a value of {column}")
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return repr(cell)
    # csv leaves a carriage return unquoted, and reads it as the end of a line.
    bare = not cell.startswith('"') and "\r" not in cell and isinstance(_read(cell), str)
    return cell if bare else json.dumps(cell, ensure_ascii=False)


def _read(text: str) -> Value:
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith('"'):
        return json.loads(text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
