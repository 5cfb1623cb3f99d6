"""What a training folder remembers of its run: settings, seconds, versions, device."""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax
import jax
import optax

from gelato_jax.errors import GelatoError
from gelato_jax.files import read_json, write_json

_CLOCK_EVERY_S = 10.0  # what a kill can cost the count of seconds


def hold_to(path: Path, settings: dict[str, Any], folder: Path) -> None:
    """Keep the settings of a run that begins; refuse others in one that goes on.

    Raises:
        GelatoError: names the option, both values and the fix.
    """
    begun = read_json(path)
    if begun is None:
        write_json(path, settings)
        return
    for name, value in settings.items():
        if (before := begun.get(name)) != value:
            raise GelatoError(f"{folder}: {_difference(name, before, value)}, or another --out")


def _difference(name: str, before: Any, now: Any) -> str:
    """What a run was begun with and what it is given now, as far as the fix."""
    if name == "corpus_sha256":
        return "was begun with a --corpus of other contents; give that one again"
    # Devices are what the machine has, not an option.
    option = name if name == "devices" else "--" + name.replace("_", "-")
    return f"was begun with {option} {_shown(before)}, now it is {_shown(now)}; take {_shown(before)} again"


def _shown(value: Any) -> str:
    """A value as an option takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Clock:
    """Seconds of each phase over all the processes that a run took."""

    def __init__(self, path: Path, watch: Callable[[str, int, int, Mapping[str, float]], None]) -> None:
        self._path, self._watch = path, watch
        self.seconds: dict[str, float] = read_json(path) or {}

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[..., None]]:
        """Count a block's seconds; gives what is to be told of its progress."""
        before, began = self.seconds.get(name, 0.0), time.monotonic()
        written = began

        def progress(done: int, total: int, values: Mapping[str, float] | None = None) -> None:
            nonlocal written
            now = time.monotonic()
            if now - written > _CLOCK_EVERY_S:
                written = now
                write_json(self._path, {**self.seconds, name: before + now - began})
            self._watch(name, done, total, values or {})

        yield progress
        self.seconds[name] = before + time.monotonic() - began
        write_json(self._path, self.seconds)


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    return {
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "python": platform.python_version(),
    }


def device() -> dict[str, Any]:
    """What the run was on."""
    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}
