"""Block sizes of Pallas kernels by kind of device: what `gelato_kernels.bench.autotune` measured, read by the kernels.

A kernel asks when it is traced, so a table that changes later touches no program that is compiled already.
"""

import contextlib
import functools
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

VARIABLE = "GELATO_KERNELS_TUNING"
"""Environment variable that names a JSON file {device kind: {kernel: {"block": n}}}, asked before the shipped one."""
SHIPPED = "tuned.json"

_trials: dict[str, int] = {}


def block(kernel: str, default: int) -> int:
    """Block size of a kernel on this process's first device.

    Args:
        kernel: its name in the tables: the op's.
        default: where no table has the device and the kernel.

    Returns:
        Numbers per block; a power of two, where a table gives it.

    Raises:
        ValueError: a table cannot be read, or is not {device kind: {kernel: {"block": power of two}}}.
    """
    if kernel in _trials:
        return _trials[kernel]
    kind = jax.devices()[0].device_kind
    for table in (_named(os.environ.get(VARIABLE)), _shipped()):
        entry = table.get(kind, {}).get(kernel)
        if entry is not None:
            return entry["block"]
    return default


@contextlib.contextmanager
def trial(kernel: str, size: int) -> Iterator[None]:
    """Within it, kernels traced anew take this size whatever the tables say; for measuring one."""
    before = dict(_trials)
    _trials[kernel] = size
    try:
        yield
    finally:
        _trials.clear()
        _trials.update(before)


@functools.cache
def _named(path: str | None) -> Mapping[str, Any]:
    """The table in the file that the environment names; empty where it names none."""
    if not path:
        return {}
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{VARIABLE}={path}: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, f"{VARIABLE}={path}")


@functools.cache
def _shipped() -> Mapping[str, Any]:
    text = importlib.resources.files("gelato_kernels").joinpath(SHIPPED).read_text(encoding="utf-8")
    return parse(text, SHIPPED)


def parse(text: str, source: str) -> dict[str, Any]:
    """The table that a JSON text holds.

    Args:
        text: of {device kind: {kernel: {"block": power of two}}}.
        source: where it comes from, for messages.

    Raises:
        ValueError: it is something else.
    """
    try:
        table = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source}: not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{source}: holds a {type(table).__name__}, expected {{device kind: {{kernel: ...}}}}")
    for kind, kernels in table.items():
        if not isinstance(kernels, dict):
            raise ValueError(f"{source}: {kind!r} holds {kernels!r}, expected {{kernel: {{'block': n}}}}")
        for kernel, entry in kernels.items():
            size = entry.get("block") if isinstance(entry, dict) else None
            # Other sizes fail in Triton, and inside Mosaic, with messages that do not name this file.
            if type(size) is not int or size < 1 or size & (size - 1):
                raise ValueError(f"{source}: {kind!r}, {kernel!r}: {entry!r}, expected {{'block': a power of two}}")
    return table
