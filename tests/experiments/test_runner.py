"""The runner of studies, on studies of a few rows."""

import dataclasses
import itertools
import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gelato_experiments import figures, runner, tables
from gelato_experiments.study import Claim, Study

ROWS = [
    {"policy": "plain", "rate": 0.1 + 0.2, "count": 3, "good": True, "note": None},
    {"policy": 'commas, "quotes"\nand lines\r\n', "rate": math.inf, "count": -(10**20), "good": False},
    {"policy": "", "rate": -math.inf, "late": "1"},
    {"policy": "True", "rate": 5e-324, "late": "nan"},
    {"policy": '"', "rate": 1.0, "late": " 2 "},
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    seed: int = 0
    lengths: tuple[int, ...] = (1, 2)
    cap: float = math.inf


def draw(settings, rows):
    figure, axes = figures.new_figure()
    (line,) = axes[0, 0].plot([0, 1], [row["rate"] for row in rows[:2]])
    figures.label_line(axes[0, 0], 1, rows[1]["rate"], "rate <&>", line.get_color())
    axes[0, 0].set(xlabel="row", ylabel="rate, tokens/s")
    return figure


class Fake:
    """A study that counts how often it is run."""

    def __init__(self, **changes):
        self.runs = 0
        fields = {
            "name": "fake",
            "question": "Does <it> work?",
            "quick": Settings(),
            "full": Settings(seed=1),
            "run": self.run,
            "claims": lambda settings, rows: [
                Claim(claim="1 < 2 & more", required="< 2", measured=f"{len(rows)} rows", holds=np.bool_(True)),
                Claim(claim="open", required="much", measured="nothing", holds=None, about="paper"),
            ],
            "draw": draw,
        }
        self.study = Study(**{**fields, **changes})

    def run(self, settings, progress):
        self.runs += 1
        progress("rolling", 1, 2)
        return [{"policy": "a", "rate": 1.5, "seed": settings.seed}, {"policy": "b", "rate": np.float32(0.1)}]


def quiet(what, done, total):
    pass


def run(study, out, preset="quick"):
    return runner.run_study(study, preset, out, quiet)


def test_a_table_comes_back_with_its_types(tmp_path):
    path = tmp_path / "metrics.csv"
    tables.write_rows(path, ROWS)
    columns = ["policy", "rate", "count", "good", "note", "late"]
    back = tables.read_rows(path)
    assert back == [{name: row.get(name) for name in columns} for row in ROWS]
    assert [list(map(type, row.values())) for row in back[:2]] == [
        [str, float, int, bool, type(None), type(None)],
        [str, float, int, bool, type(None), type(None)],
    ]


def test_nan_and_scalars_of_libraries_come_back_as_python_has_them(tmp_path):
    path = tmp_path / "metrics.csv"
    tables.write_rows(path, [{"a": math.nan, "b": np.float64(0.1), "c": np.int64(7), "d": np.bool_(False)}])
    (row,) = tables.read_rows(path)
    assert math.isnan(row.pop("a"))
    assert row == {"b": 0.1, "c": 7, "d": False}
    assert type(row["d"]) is bool


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), min_size=1))
def test_any_cell_comes_back(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    try:
        "".join(cell for cell in cells if isinstance(cell, str)).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text of a file
    tables.write_rows(path, [{"x": cell} for cell in cells])
    back = [row["x"] for row in tables.read_rows(path)]
    assert [(type(cell), cell) for cell in back] == [(type(cell), cell) for cell in cells]


def test_a_list_in_a_cell_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a value of rates is a list"):
        tables.write_rows(tmp_path / "metrics.csv", [{"rates": [1, 2]}])
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_all_files_and_what_they_came_from(tmp_path):
    told = []
    outcome = runner.run_study(Fake().study, "full", tmp_path, lambda *told_now: told.append(told_now))
    assert outcome.status == "done"
    assert "1 of 2 claims hold" in outcome.text
    assert told[0] == ("rolling", 1, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"fake"}
    assert {path.name for path in (tmp_path / "fake").iterdir()} == set(runner.FILES)
    record = json.loads((tmp_path / "fake" / "run.json").read_text())
    assert record["settings"] == {"seed": 1, "lengths": [1, 2], "cap": "inf"}
    assert record["command"] == "gelato experiment run fake --preset full --out DIR"
    assert {"jax", "numpy", "python"} <= set(record["versions"])
    assert record["device"]["platform"] == "cpu"
    assert record["seconds"] >= 0
    claims = json.loads((tmp_path / "fake" / "claims.json").read_text())
    assert [claim["holds"] for claim in claims] == [True, None]
    # float32 is written in full.
    assert tables.read_rows(tmp_path / "fake" / "metrics.csv")[1]["rate"] == float(np.float32(0.1))


def test_the_figure_has_no_addresses(tmp_path):
    run(Fake().study, tmp_path)
    drawing = (tmp_path / "fake" / "figure.svg").read_text()
    for namespace in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"):
        drawing = drawing.replace(f'"{namespace}"', "")
    assert "://" not in drawing
    assert (tmp_path / "fake" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_figure(tmp_path):
    drawings = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(Fake().study, tmp_path / name)
        drawings.append((tmp_path / name / "fake" / "figure.svg").read_bytes())
    assert drawings[0] == drawings[1]


def test_done_is_skipped_and_changed_settings_are_run_again(tmp_path):
    fake = Fake()
    run(fake.study, tmp_path)
    assert run(fake.study, tmp_path).status == "skipped"
    assert fake.runs == 1
    assert run(fake.study, tmp_path, "full").status == "done"
    changed = dataclasses.replace(fake.study, full=Settings(seed=2))
    assert run(changed, tmp_path, "full").status == "done"
    assert fake.runs == 3
    assert json.loads((tmp_path / "fake" / "run.json").read_text())["settings"]["seed"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"fake"}


@pytest.mark.parametrize("left", [{}, {"metrics.csv": "a\n1\n"}, {"metrics.csv": "a\n", "rows.json": '{"study": "fa'}])
def test_what_a_kill_left_is_run_again(tmp_path, left):
    fake = Fake()
    partial = tmp_path / ".fake.partial"
    partial.mkdir()
    for name, text in left.items():
        (partial / name).write_text(text)
    assert run(fake.study, tmp_path).status == "done"
    assert fake.runs == 1
    assert not partial.exists()


def test_rows_outlive_a_fault_in_the_figure(tmp_path):
    def fail(settings, rows):
        raise RuntimeError("no ink")

    fake = Fake(draw=fail)
    with pytest.raises(RuntimeError, match="no ink"):
        run(fake.study, tmp_path)
    assert not (tmp_path / "fake").exists()
    outcome = run(dataclasses.replace(fake.study, draw=draw), tmp_path)
    assert (outcome.status, fake.runs) == ("done", 1)
    assert "from rows computed before" in outcome.text
    assert {path.name for path in (tmp_path / "fake").iterdir()} == set(runner.FILES)


def test_kept_rows_of_other_settings_are_not_taken(tmp_path):
    fake = Fake(claims=lambda settings, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(fake.study, tmp_path)
    mended = dataclasses.replace(fake.study, claims=Fake().study.claims)
    run(mended, tmp_path, "full")
    assert fake.runs == 2
    assert tables.read_rows(tmp_path / "fake" / "metrics.csv")[0]["seed"] == 1


def test_a_kill_between_two_renames_costs_nothing_else(tmp_path):
    fake = Fake()
    run(fake.study, tmp_path)
    (tmp_path / "fake").rename(tmp_path / ".fake.old")
    assert run(fake.study, tmp_path).status == "done"
    assert {path.name for path in tmp_path.iterdir()} == {"fake"}


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    fake = Fake()
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"holds no run.json"):
        run(fake.study, tmp_path)
    assert fake.runs == 0
    shutil.rmtree(tmp_path / "fake")
    (tmp_path / "fake").write_text("")
    with pytest.raises(ValueError, match="not a folder"):
        run(fake.study, tmp_path)


def test_no_rows_are_a_fault(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        run(Fake(run=lambda settings, progress: []).study, tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_run_at_a_time(tmp_path):
    out = tmp_path / "out"
    with runner.locked(out), pytest.raises(ValueError, match="another run"), runner.locked(out):
        pass
    with runner.locked(out):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not a folder"), runner.locked(tmp_path / "file"):
        pass


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0.5, 20)), min_size=1, max_size=8))
def test_labels_are_spread_in_order_without_overlap(things):
    wanted, sizes = [thing[0] for thing in things], [thing[1] for thing in things]
    places = figures.spread(wanted, sizes)
    order = sorted(range(len(things)), key=lambda index: wanted[index])
    for lower, upper in itertools.pairwise(order):
        assert places[upper] - places[lower] >= (sizes[lower] + sizes[upper]) / 2 - 1e-9
    assert math.isclose(sum(places), sum(wanted), abs_tol=1e-6)  # blocks stand at the means of what is wanted


def test_labels_far_enough_apart_stay():
    assert figures.spread([0.0, 30.0, 10.0], [10.0, 10.0, 10.0]) == [0.0, 30.0, 10.0]


def test_placed_labels_do_not_cover_each_other():
    with figures.style():
        figure, axes = figures.new_figure(1, 2)
        for axis in axes[0]:
            for number in range(6):
                axis.plot([0, 1], [0, number / 100])
                figures.label_line(axis, 1, number / 100, f"line {number}", "k")
            axis.plot([0, 1], [0, 1])
            figures.label_line(axis, 1, math.nan, "nowhere", "k")
        figures.place_labels(figure)
        figure.draw_without_rendering()
        for axis in axes[0]:
            boxes = sorted((text.get_window_extent() for text in axis.texts), key=lambda box: box.y0)
            assert len(boxes) == 6
            assert all(upper.y0 >= lower.y1 - 0.5 for lower, upper in itertools.pairwise(boxes))
            assert all(box.x1 <= figure.bbox.x1 for box in boxes)
