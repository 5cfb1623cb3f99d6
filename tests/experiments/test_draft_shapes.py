"""The study of draft shapes: figures by hand, and files in and out."""

import json

import pytest

from gelato_experiments.studies.draft_shapes import study as draft_shapes
from gelato_jax import system


def evaluation(rounds, cost=0.2, draft_s=None):
    """What an `eval.json` holds, as far as the study reads it: one exit, greedy."""
    measured = {} if draft_s is None else {"measured": {"draft_s": [draft_s], "share": [0.1]}}
    average = {"acceptance": [0.5], "tokens_per_round": [rounds]}
    return {"exits": [6], "cost": {"weights": [cost], **measured}, "greedy": {"average": average}}


def test_the_clock_by_hand():
    (row,) = draft_shapes.rows({"six": evaluation([1.5, 1.75], draft_s=0.1)}, window_s=[1.0, 1.5, 1.6])
    # Without a draft 1 token a second; one draft token gives 1.5 / 1.6, two give 1.75 / 1.8.
    assert (row.clock_length, row.clock_speed_up) == (0, 1.0)
    (row,) = draft_shapes.rows({"six": evaluation([1.9, 2.7], draft_s=0.1)}, window_s=[1.0, 1.5, 1.6])
    assert (row.clock_length, row.clock_speed_up) == (2, pytest.approx(1.5))


def test_the_modelled_figures_by_hand():
    (row,) = draft_shapes.rows({"six": evaluation([1.5], cost=0.25)})
    world = system.preset(draft_shapes.DEVICE, draft_shapes.LINK, draft_shapes.EDGE)
    waiting = float(world.edge.window_s[1])
    assert row.modelled_length == 1
    assert row.clock_speed_up is None
    # Waiting for one step and one round trip bounds the rate from above; drafting makes it slower still.
    assert row.modelled_tokens_per_s < 1.5 / (waiting + 0.02 + 0.25 * float(world.device.token_s))
    assert row.energy_per_token_j > 0.25 * float(world.device.token_j) / 1.5


def test_a_cheaper_draft_as_good_is_worth_more():
    cheap, dear = draft_shapes.rows(
        {"cheap": evaluation([1.6, 2.0], cost=0.1), "dear": evaluation([1.6, 2.0], cost=0.3)}
    )
    assert cheap.modelled_tokens_per_s > dear.modelled_tokens_per_s
    assert cheap.energy_per_token_j < dear.energy_per_token_j


def test_files_are_written(tmp_path, monkeypatch):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(evaluation([1.5, 1.7], draft_s=0.1)))
    monkeypatch.setattr(draft_shapes, "time_windows", lambda target, longest: [1.0] * longest)
    draft_shapes.DraftShapes(evaluations=(f"six={path}",), out=tmp_path / "out").run()
    assert "| six | 6 | greedy | 0.200 | 0.500 |" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "table.csv").read_text().count("\n") == 2
    assert (tmp_path / "out" / "frontier.png").stat().st_size > 1000


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"six=.*not readable"):
        draft_shapes.DraftShapes(evaluations=(f"six={tmp_path / 'none.json'}",), out=tmp_path).run()
