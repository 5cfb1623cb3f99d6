"""The committed results come from the committed code.

Claims follow from the tables; a small study, run again, falls inside its intervals.
"""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from gelato_experiments.studies import registry
from gelato_experiments.tables import as_json, read_rows

RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "studies-quick"
MEASURED = ("tokens_per_s", "energy_per_token_j", "gap_tokens_per_s")
ROUNDING = 1e-3
"""Relative: another processor's float32 sends some devices along other paths."""


def half(row: dict, name: str) -> float:
    """Half of the interval that a row states for a figure, 0 where it states none."""
    return row.get(f"{name}_half") or row.get("gap_half") or 0.0


@pytest.mark.parametrize("name", ["depth"])
def test_a_study_gives_its_committed_table_again(name):
    committed = read_rows(RESULTS / name / "metrics.csv")
    study = registry.load(name)
    again = study.run(study.quick, lambda stage, done, total: None)
    assert len(again) == len(committed)
    compared = 0
    for old, new in zip(committed, again, strict=True):
        for figure in MEASURED:
            if old.get(figure) is None or math.isnan(old[figure]):
                continue
            allowed = half(old, figure) + half(new, figure) + ROUNDING * max(1.0, abs(old[figure]))
            assert abs(old[figure] - new[figure]) <= allowed, (figure, old, new)
            compared += 1
    assert compared > len(committed) / 2


@pytest.mark.parametrize("name", registry.STUDIES)
def test_committed_claims_follow_from_the_committed_table(name):
    study, rows = registry.load(name), read_rows(RESULTS / name / "metrics.csv")
    committed = json.loads((RESULTS / name / "claims.json").read_text())
    found = [dataclasses.asdict(claim) for claim in study.claims(study.quick, rows)]
    assert [
        {**claim, "holds": None if claim["holds"] is None else bool(claim["holds"])} for claim in found
    ] == committed
    assert json.loads((RESULTS / name / "run.json").read_text())["settings"] == as_json(study.quick)


def test_every_study_has_committed_results():
    done = {name: json.loads((RESULTS / name / "run.json").read_text()) for name in registry.STUDIES}
    for name, facts in done.items():
        assert facts["preset"] == "quick"
        assert facts["command"] == f"gelato experiment run {name} --preset quick --out DIR"
    claims = json.loads((RESULTS / "claims.json").read_text())
    assert {claim["study"] for claim in claims} == set(registry.STUDIES)
    assert all(set(claim) >= {"claim", "required", "measured", "holds", "study", "command"} for claim in claims)
