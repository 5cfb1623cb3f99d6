"""What a folder of results holds, read from the files that the runner wrote alone; no study is imported."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gelato_experiments.report.drawing import inline
from gelato_experiments.runner import failure_file
from gelato_experiments.study import Claim, Row
from gelato_experiments.tables import read_rows
from gelato_jax.errors import GelatoError
from gelato_jax.files import read_json

HOLDS = {True: "holds", False: "does not hold", None: "cannot be judged"}
"""The verdicts, in words."""

PAPER = "the paper's"
"""Tag of a claim that is not ours."""

_CLAIM = tuple(field.name for field in dataclasses.fields(Claim))
_FACTS = ("question", "command", "preset", "settings", "versions", "device", "seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a study left.

    Attributes:
        name: of the study.
        facts: its run.json.
        claims: its claims.json.
        rows: its metrics.csv.
        drawing: its figure.svg.
    """

    name: str
    facts: Mapping[str, Any]
    claims: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    drawing: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a folder of results holds.

    Attributes:
        results: of the studies that are there, in the registry's order.
        notes: study -> what is missing or amiss.
    """

    results: Sequence[Result]
    notes: Mapping[str, str]

    def claims(self) -> list[dict[str, Any]]:
        """All claims, as claims.json has them."""
        return [
            {**{name: claim[name] for name in _CLAIM}, "study": result.name, "command": result.facts["command"]}
            for result in self.results
            for claim in result.claims
        ]


def collect(out: Path) -> Report:
    """Read a folder of results.

    Args:
        out: what `gelato experiment run --out` was given.

    Raises:
        GelatoError: the folder holds no study that is whole.
    """
    from gelato_experiments.studies.registry import STUDIES

    if not out.is_dir():
        raise GelatoError(f"{out}: no such folder; make it by gelato experiment run all --out {out}")
    found = {path.parent.name for path in out.glob("*/run.json") if not path.parent.name.startswith(".")}
    results, notes = [], {}
    for name in [*STUDIES, *sorted(found - set(STUDIES))]:
        failed = failure_file(out, name)
        if failed.exists():
            notes[name] = f"the last run failed, see {failed.name}"
        if name not in found:
            notes.setdefault(name, "not run")
            continue
        try:
            results.append(_read(out / name))
        except (OSError, ValueError, TypeError, AttributeError, ElementTree.ParseError) as error:
            notes[name] = f"unreadable, remove {name} and run it again ({type(error).__name__}: {error})"
    if not results:
        raise GelatoError(f"{out}: holds no finished study; make some by gelato experiment run all --out {out}")
    return Report(results=results, notes=notes)


def _read(folder: Path) -> Result:
    facts = read_json(folder / "run.json") or {}
    claims = json.loads((folder / "claims.json").read_text("utf-8"))
    _require(facts, _FACTS, "run.json")
    for claim in claims:
        _require(claim, _CLAIM, "claims.json")
    drawing = inline((folder / "figure.svg").read_text("utf-8"), folder.name, facts["question"])
    return Result(name=folder.name, facts=facts, claims=claims, rows=read_rows(folder / "metrics.csv"), drawing=drawing)


def _require(entry: Mapping[str, Any], fields: Sequence[str], file: str) -> None:
    missing = [name for name in fields if name not in entry]
    if missing:
        raise GelatoError(f"{file} has no {missing[0]!r}")


def counts(claims: Iterable[Mapping[str, Any]]) -> str:
    """How many claims hold, in words."""
    verdicts = [claim["holds"] for claim in claims]
    hold, fail, unjudged = (verdicts.count(verdict) for verdict in (True, False, None))
    return f"Of {len(verdicts)} claims {hold} hold, {fail} do not, {unjudged} cannot be judged."
