"""Runs a study and keeps what it found: a folder per study, whole or not there.

`DIR/STUDY/` holds `metrics.csv`, `claims.json`, `figure.svg`, `figure.png` and `run.json`. It is filled as
`DIR/.STUDY.partial`, gets its `run.json` last and is then renamed, so a kill leaves no half of one. Claims and figure
are made from the rows as `metrics.csv` gives them back.
"""

import contextlib
import dataclasses
import json
import shlex
import shutil
import subprocess
import textwrap
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from gelato_experiments.study import Claim, Progress, Study
from gelato_experiments.tables import as_json, read_rows, write_rows
from gelato_jax.errors import GelatoError
from gelato_jax.files import atomic_write, read_json, write_json

Preset = Literal["quick", "full"]

FILES = ("metrics.csv", "claims.json", "figure.svg", "figure.png", "run.json")
"""What a study's folder holds."""

_ROWS = "rows.json"  # what will be run.json, as long as claims and figure are missing
_GIT_S = 30.0  # assumed: more than git needs
_REASON = 240  # characters of a fault in one line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a study ended: one line."""

    study: str
    status: Literal["done", "skipped", "failed"]
    text: str


@contextlib.contextmanager
def locked(out: Path) -> Iterator[Path]:
    """Make a folder of results and keep other runs out of it.

    Args:
        out: the folder; may exist.

    Yields:
        The folder.

    Raises:
        GelatoError: it is a file, or another run is at work in it.
        OSError: it cannot be made or written.
    """
    from filelock import FileLock, Timeout

    out = out.expanduser()
    if out.exists() and not out.is_dir():
        raise GelatoError(f"{out}: not a folder; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise GelatoError(f"{out}: another run is at work there; wait for its end, or give another --out") from None
    try:
        yield out
    finally:
        lock.release()


def attempt(name: str, preset: Preset, out: Path, progress: Progress, recording: Path | None = None) -> Outcome:
    """Run a registered study; a fault in it becomes a line and a file `DIR/STUDY.failed.txt` with the traceback.

    Args:
        name: of the study.
        preset: which of its settings.
        out: folder of results, which exists.
        progress: told how far it is.
        recording: a file in place of the study's own recording.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    from gelato_experiments.studies import registry

    trace = failure_file(out, name)
    trace.unlink(missing_ok=True)
    try:
        study = registry.load(name)
        return run_study(study if recording is None else study.on(str(recording)), preset, out, progress)
    except Exception as error:
        trace.write_text(traceback.format_exc(), "utf-8")
        reason = textwrap.shorten(" ".join(traceback.format_exception_only(error)), _REASON)
        text = f"failed, {reason}; see {trace}"
        partial = _partial(out, name)
        if (partial / _ROWS).exists():
            text += f"; the next run takes up its rows, unless you remove {partial}"
        return Outcome(study=name, status="failed", text=text)


def run_study(study: Study, preset: Preset, out: Path, progress: Progress) -> Outcome:
    """Run a study, unless the same settings have been run; write its folder.

    Where rows were computed but claims or figure failed, the rows are kept and taken up by the next call.

    Args:
        study: which.
        preset: which of its settings.
        out: folder of results, which exists.
        progress: told how far it is.

    Raises:
        GelatoError: the study's folder holds something that is no study, or the study found no rows.
        TypeError: a cell or a setting is none of what a table and JSON can hold.
    """
    folder, partial = out / study.name, _partial(out, study.name)
    wanted = {"study": study.name, "preset": preset, "settings": as_json(_settings(study, preset))}
    _refuse_foreign(folder)
    if _matches(folder / "run.json", wanted):
        text = f"done before with the same settings; remove {folder} to run it again"
        return Outcome(study=study.name, status="skipped", text=text)
    kept = _matches(partial / _ROWS, wanted)
    if not kept:
        _compute(study, preset, partial, wanted, progress)
    claims = _conclude(study, preset, partial, progress)
    seconds = json.loads((partial / _ROWS).read_text("utf-8"))["seconds"]
    (partial / _ROWS).replace(partial / "run.json")
    _publish(partial, folder)
    holding = sum(claim["holds"] is True for claim in claims)
    text = f"done in {seconds:.1f} s, {holding} of {len(claims)} claims hold"
    return Outcome(study=study.name, status="done", text=text + (", from rows computed before" if kept else ""))


def failure_file(out: Path, name: str) -> Path:
    """Where a study's fault is written."""
    return out / f"{name}.failed.txt"


def _partial(out: Path, name: str) -> Path:
    return out / f".{name}.partial"


def _settings(study: Study, preset: Preset) -> Any:
    return {"quick": study.quick, "full": study.full}[preset]


def _refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that no run has made."""
    if folder.is_dir() and not (folder / "run.json").exists() and any(folder.iterdir()):
        raise GelatoError(f"{folder}: holds no run.json, so no study made it; move it, or give another --out")
    if folder.exists() and not folder.is_dir():
        raise GelatoError(f"{folder}: not a folder; move it, or give another --out")


def _matches(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a run.json is there, whole, and of the same study, preset and settings."""
    try:
        facts = read_json(path)
    except ValueError:
        return False
    return isinstance(facts, dict) and all(facts.get(key) == value for key, value in wanted.items())


def _compute(study: Study, preset: Preset, partial: Path, wanted: dict[str, Any], progress: Progress) -> None:
    """Run, and write the rows and what they came from."""
    began = time.perf_counter()
    rows = study.run(_settings(study, preset), progress)
    seconds = time.perf_counter() - began
    if not rows:
        raise GelatoError("the study found no rows")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_rows(partial / "metrics.csv", rows)
    write_json(partial / _ROWS, {**wanted, **_circumstances(study, preset), "rows": len(rows), "seconds": seconds})


def _conclude(study: Study, preset: Preset, partial: Path, progress: Progress) -> list[dict[str, Any]]:
    """Claims and figure, from the rows on the disk."""
    from gelato_experiments import figures

    progress("claims and figure", 0, 0)
    rows = read_rows(partial / "metrics.csv")
    settings = _settings(study, preset)
    claims = [_claim(claim) for claim in study.claims(settings, rows)]
    with atomic_write(partial / "claims.json") as file:
        file.write(f"{json.dumps(claims, indent=2, ensure_ascii=False)}\n".encode())
    with figures.style():
        figures.save(study.draw(settings, rows), partial)
    return claims


def _claim(claim: Claim) -> dict[str, Any]:
    """A claim as JSON; `holds` may be NumPy's boolean."""
    holds = None if claim.holds is None else bool(claim.holds)
    return {**dataclasses.asdict(claim), "holds": holds}


def _publish(partial: Path, folder: Path) -> None:
    """Put a finished folder in place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _circumstances(study: Study, preset: Preset) -> dict[str, Any]:
    """What else decides the numbers, and how to get them again."""
    import matplotlib
    import numpy as np

    import gelato_jax
    from gelato_jax.training.provenance import device, versions

    own = "" if study.given is None else f" --recording {shlex.quote(study.given)}"
    return {
        "question": study.question,
        "command": f"gelato experiment run {study.name} --preset {preset}{own} --out DIR",
        "versions": {
            "gelato_jax": gelato_jax.__version__,
            **versions(),
            "numpy": np.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "commit": _commit(),
        "device": device(),
    }


def _commit() -> str | None:
    """The commit that the code is of, `-dirty` where files differ from it; None outside a checkout of this project."""
    import gelato_jax

    here = Path(gelato_jax.__file__)
    try:
        # An installed copy may lie inside the checkout of something else, which does not track it.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_S).stdout.strip()
