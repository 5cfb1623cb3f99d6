"""The parts under `gelato generate` that stand alone: report file, screen, clock."""

import io
import os
import re
import sys

import pytest

from gelato_jax.cli import progress as progress_file
from gelato_jax.cli.clock import CompileClock
from gelato_jax.cli.output import JsonFile
from gelato_jax.cli.progress import Progress
from gelato_jax.cli.screen import Figures, Panel


def test_report_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), JsonFile(str(path)):
        raise RuntimeError
    assert path.read_text() == "old"
    with JsonFile(str(path)) as file:
        assert path.read_text() == "old"
        file.write({"text": "caf\u00e9", "cap": float("inf"), "list": [float("nan")]})
    assert (
        path.read_text(encoding="utf-8") == '{\n  "text": "caf\u00e9",\n  "cap": null,\n  "list": [\n    null\n  ]\n}\n'
    )
    assert os.listdir(tmp_path) == ["report.json"]


def test_report_to_a_device_file():
    with JsonFile("/dev/null") as file:
        file.write({"a": 1})
    assert not os.path.isfile("/dev/null")


def test_report_follows_a_link_and_keeps_it(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    with JsonFile(str(tmp_path / "link.json")) as file:
        file.write({})
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "{}\n"


def shown_by(output: str) -> list[str]:
    """The rows that a terminal shows after `output`: line ends, cursor up, erased lines; colours dropped."""
    rows, row, column = [""], 0, 0
    for text, control in re.findall(r"([^\x1b\r\n]+)|(\x1b\[[?0-9;]*[A-Za-z]|\r|\n)", output):
        if text:
            rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + len(text) :]
            column += len(text)
        elif control == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif control == "\r":
            column = 0
        elif control == "\x1b[1A":
            row -= 1
        elif control == "\x1b[2K":
            rows[row] = ""
    return rows


def test_panel_keeps_text_and_removes_itself(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    figures = Figures(
        tokens_per_s=12.5,
        energy_per_token_j=None,
        acceptance_rate=0.25,
        drafted=3,
        budget=4,
        depth=5.5,
        layers=6,
        queue_j=1.25,
    )
    with Panel("title") as panel:
        panel.text("a [red]line[/red] :smile:\nand half")
        panel.figures(figures)
        panel._live.refresh()
        panel.text(" a line")
    out = stream.getvalue()
    assert all(cell in out for cell in ("12.5", "25%", "3 of 4", "5.5 of 6", "1.25 J"))
    assert [row for row in shown_by(out) if row] == ["a [red]line[/red] :smile:", "and half a line"]


def test_clock_counts_overlapping_spans_once(monkeypatch):
    clock = CompileClock()
    clock._spans += [(0.0, 2.0), (1.0, 3.0), (1.5, 1.6), (5.0, 6.0)]
    assert clock.seconds == pytest.approx(4.0)


@pytest.mark.parametrize("terminal", [False, True])
def test_news_stays_on_the_screen(terminal, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress() as progress:
        progress.stage("load", 0, 0)
        progress.stage("untrained", 0, 0)
    last = [row for row in shown_by(stream.getvalue()) if row][-1]
    assert last == "gelato: no trained draft ships for this model: its first layers draft, and agree with it seldom"
    silent = io.StringIO()
    monkeypatch.setattr(sys, "stderr", silent)
    Progress(quiet=True).stage("untrained", 0, 0)
    assert silent.getvalue() == ""


@pytest.fixture
def lines(monkeypatch, capsys):
    """What a display without a terminal says, by a clock that stands still: (new lines, move the clock)."""
    now = [0.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return lambda: capsys.readouterr().err.splitlines(), move


def test_long_work_is_told_of_now_and_then_with_its_pace(lines):
    said, move = lines
    with Progress() as progress:
        progress.stage("train", 1000, 61000)  # a thousand by an earlier process: done, but no speed
        move(10.0)
        progress.stage("train", 2000, 61000, {"loss": 1.5})
        assert said() == ["gelato: training 1000 of 61000 tokens"]
        move(30.0)
        progress.stage("train", 5000, 61000, {"loss": 1.25})
        move(1.0)
        progress.stage("train", 61440, 61000)
        progress.stage("train", 61440, 61000)
    assert said() == [
        "gelato: training 5000 of 61000 tokens, 100 tokens/s, 0:10 h left, loss 1.250",
        "gelato: training 61000 of 61000 tokens, 1474 tokens/s, 0:00 h left",
    ]


def test_short_work_is_one_line(lines):
    said, move = lines
    with Progress() as progress:
        for done in range(4):
            progress.stage("load", done, 3)
        progress.stage("compile", 0, 0)
        move(40.0)
        progress.stage("a study: counting", 2, 8)
        move(40.0)
        progress.stage("a study: counting", 3, 8)
    labels = [
        "loading",
        "compiling, or loading compiled programs",
        "a study: counting 2 of 8",
        "a study: counting 3 of 8",
    ]
    assert said() == [f"gelato: {label}" for label in labels]
