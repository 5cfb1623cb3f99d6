"""The report: whole, valid and without a line to elsewhere."""

import json
import shutil
from html.parser import HTMLParser

import pytest

from gelato_experiments import figures, report, runner
from gelato_experiments.studies import registry
from gelato_experiments.study import Claim, Study

VOID = {"meta", "br", "img", "link"}
EVIL = "<script>alert('&\")</script>"


def study(name, rows=3, holds=True):
    def draw(settings, table):
        figure, axes = figures.new_figure()
        (line,) = axes[0, 0].plot([row["x"] for row in table])
        axes[0, 0].set(xlabel=f"row of {EVIL}", ylabel="x, tokens")
        figures.label_line(axes[0, 0], 0, 0, EVIL, line.get_color())
        return figure

    return Study(
        name=name,
        question=f"What of {EVIL}?",
        quick={"seed": 0, "inner": {"text": EVIL, "list": [1, 2]}},
        full={},
        run=lambda settings, progress: [{"x": i / 7, EVIL: EVIL, "n": i, "b": True, "o": None} for i in range(rows)],
        claims=lambda settings, table: [
            Claim(claim=f"claim {EVIL}", required=f"at least 1 {EVIL}", measured=f"2 {EVIL}", holds=holds),
            Claim(claim="of the paper", required="1.5", measured="not tried", holds=None, about="paper"),
        ],
        draw=draw,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    for item in (study("second", rows=250, holds=False), study("first")):
        runner.run_study(item, "quick", out, lambda what, done, total: None)
    return out


@pytest.fixture
def results(made, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "STUDIES", {"first": "a", "second": "b", "third": "c"})
    return shutil.copytree(made, tmp_path / "results")


class Checker(HTMLParser):
    """Tags that match, names that are unique, addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references, self.text, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self._look(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._look(tag, attrs)
        assert "svg" in self.open, f"<{tag}/> outside of a drawing"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def _look(self, tag, attrs):
        self.tags.append(tag)
        assert len({name for name, _ in attrs}) == len(attrs)
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("href", "src")]
        self.references += [v.split("url(")[1].split(")")[0] for _, v in attrs if v and "url(" in v]


def test_the_page_is_whole_and_alone(results):
    report.write(report.collect(results), results)
    page = (results / "report.html").read_text("utf-8")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.references
    assert {reference.removeprefix("#") for reference in checker.references} <= set(checker.ids)
    assert "://" not in page
    assert "@import" not in page
    assert "script" not in checker.tags
    text = "".join(checker.text)
    for shown in (f"What of {EVIL}?", f"claim {EVIL}", f"2 {EVIL}", json.dumps(EVIL), "[1, 2]"):
        assert shown in text
    for verdict in ("holds", "does not hold", "cannot be judged", "the paper's"):
        assert verdict in text
    assert "first 200 rows" in text
    assert "All 250 are in second/metrics.csv" in text
    assert "third: not run" in text
    assert "gelato experiment run first --preset quick --out DIR" in text
    assert page.index('id="study-first"') < page.index('id="study-second"')


def test_claims_of_all_studies(results):
    report.write(report.collect(results), results)
    claims = json.loads((results / "claims.json").read_text("utf-8"))
    assert [claim["study"] for claim in claims] == ["first", "first", "second", "second"]
    assert [claim["holds"] for claim in claims] == [True, None, False, None]
    assert set(claims[0]) == {"claim", "required", "measured", "holds", "study", "command", "about"}
    assert claims[2]["command"] == "gelato experiment run second --preset quick --out DIR"


def test_the_table_for_a_terminal(results):
    lines = report.summary(report.collect(results), 80)
    assert max(map(len, lines[:-2])) <= 80
    assert lines[0].split()[:2] == ["holds", "first"]
    assert lines[-2] == "third: not run"
    assert lines[-1] == "Of 4 claims 1 hold, 1 do not, 2 cannot be judged."


def test_what_is_amiss_is_named(results):
    (results / "second" / "figure.svg").write_text("<svg")
    runner.failure_file(results, "first").write_text("Traceback")
    (results / ".third.partial").mkdir()
    (results / ".third.partial" / "run.json").write_text("{}")
    found = report.collect(results)
    assert [result.name for result in found.results] == ["first"]
    assert "the last run failed" in found.notes["first"]
    assert "unreadable" in found.notes["second"]
    assert found.notes["third"] == "not run"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "{}"),
        ("run.json", "[]"),
        ("run.json", "{"),
        ("claims.json", "[{}]"),
        ("claims.json", "3"),
        ("metrics.csv", "a,b\n1\n"),
    ],
)
def test_a_broken_file_is_named(results, file, text):
    (results / "second" / file).write_text(text)
    assert "unreadable" in report.collect(results).notes["second"]


def test_a_study_that_is_no_longer_registered_is_shown(results, monkeypatch):
    monkeypatch.setattr(registry, "STUDIES", {"second": "b"})
    assert [result.name for result in report.collect(results).results] == ["second", "first"]


def test_nothing_to_report_names_the_fix(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="gelato experiment run all --out"):
            report.collect(folder)
    assert not list(tmp_path.iterdir())
