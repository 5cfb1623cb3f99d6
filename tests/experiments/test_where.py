"""The study `where` on a synthetic pair: streams, mixtures and limits, and what its claims say of the table."""

import dataclasses
import math

import pytest

from gelato_experiments import figures
from gelato_experiments.oracles import EntropyModel
from gelato_experiments.studies.where import STUDY
from gelato_experiments.studies.where.claims import DEFAULT, claims
from gelato_experiments.studies.where.study import FIXED, MIXTURE, STREAM, run
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import simulation

MODEL = EntropyModel(initial=[0.6, 0.4], transition=[[0.8, 0.2], [0.3, 0.7]], acceptance=[0.95, 0.4])
BUDGETS = (1.0, 0.6, 0.1)
"""A stream's, one that drafts keep, and one that nothing keeps."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    file = tmp_path_factory.mktemp("recordings") / "pair.npz"
    simulation.save(file, synthetic_recording(MODEL, texts=16, positions=64, max_draft_length=6))
    small = {"rtts_s": (0.06,), "pass_budgets": BUDGETS, "waiting_w": (0.4,), "spare_w": (math.inf,)}
    return dataclasses.replace(STUDY.quick, recordings=(str(file),), devices=16, rounds=600, warmup=600, **small)


@pytest.fixture(scope="module")
def rows(settings):
    return run(settings, lambda what, done, of: None)


def cell(rows, budget):
    return {row["method"]: row for row in rows if row["pass_budget"] == budget}


def test_where_passes_are_free_a_stream_is_first(rows):
    free = cell(rows, 1.0)
    assert free[STREAM]["passes_per_token"] == pytest.approx(1.0)
    assert free[STREAM]["tokens_per_s"] == pytest.approx(free[MIXTURE]["tokens_per_s"])
    assert free[FIXED]["tokens_per_s"] == pytest.approx(free[STREAM]["tokens_per_s"])
    # What finding out may cost (PROBE_SHARE), and one probe.
    assert -1.0 <= free[DEFAULT]["gain_pct"] <= 0.0


def test_where_they_are_scarce_drafts_keep_the_budget(rows):
    scarce = cell(rows, 0.6)
    assert not scarce[STREAM]["keeps"]
    assert "tokens_per_s" not in scarce[STREAM]
    for method in (FIXED, MIXTURE, "ratio", DEFAULT):
        assert scarce[method]["keeps"], method
        assert scarce[method]["passes_per_token"] <= 0.6 * 1.005
        assert scarce[method]["tokens_per_s"] < cell(rows, 1.0)[STREAM]["tokens_per_s"]
    assert scarce[MIXTURE]["tokens_per_s"] >= scarce[FIXED]["tokens_per_s"] * 0.999
    assert not any(row["keeps"] for row in cell(rows, 0.1).values())


def test_claims_follow_the_table(settings, rows):
    free, _, first, kept, parts, joules = claims(settings, rows)
    assert free.holds
    assert kept.holds
    assert "1 more no method keeps" in first.measured
    assert "%" in parts.measured
    assert "times" in joules.measured
    behind = [{**row, "gain_pct": -9.0} if row["method"] == DEFAULT and row["keeps"] else row for row in rows]
    assert claims(settings, behind)[2].holds is False
    broken = [{**row, "keeps": False} if row["method"] == DEFAULT else row for row in rows]
    assert claims(settings, broken)[3].holds is False
    faster = [{**row, "gain_pct": 9.0} if row["method"] == FIXED and row["keeps"] else row for row in rows]
    faster = [{**row, "passes_per_token": 0.5} if row["method"] == FIXED and row["keeps"] else row for row in faster]
    assert claims(settings, faster)[0].holds is False


def test_the_map_is_drawn(settings, rows, tmp_path):
    with figures.style():
        figure = STUDY.draw(settings, rows)
        figures.save(figure, tmp_path)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("none keeps it") == 1
    assert sum(text.endswith("tokens/s") for text in texts) == 2
