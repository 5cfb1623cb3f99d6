"""`gelato experiment` on studies of one row."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gelato_experiments
from gelato_experiments import runner
from gelato_experiments.studies import registry

MODULE = """
from gelato_experiments import figures
from gelato_experiments.study import Claim, Study


def run(settings, progress):
    progress("counting", 0, 1)
    {body}
    return [{{"x": 1.0}}]


def draw(settings, rows):
    figure, axes = figures.new_figure()
    axes[0, 0].plot([0, rows[0]["x"]])
    return figure


STUDY = Study(
    name="{name}",
    question="Does {name} "
    "count?",
    quick={{"seed": {seed}}},
    full={{"seed": 7}},
    run=run,
    claims=lambda settings, rows: [Claim(claim="counts", required="1", measured="1", holds=True)],
    draw=draw,
)
"""


SETTINGS = """
import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    recording: str

"""
SHORT = Path(gelato_experiments.__file__).parent / "recordings" / "short-greedy.npz"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write and register a study of some name, whose run does something first."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "STUDIES", {})

    def make(name, body="pass", seed=0, text=None):
        module = f"fake_study_{name}"
        (folder / f"{module}.py").write_text(text or MODULE.format(name=name, body=body, seed=seed))
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        registry.STUDIES[name] = module

    yield make
    for name in registry.STUDIES:
        sys.modules.pop(f"fake_study_{name}", None)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """The cache of programs is the process's; other tests do without."""
    monkeypatch.setattr("gelato_jax.cli.cache.keep_programs", lambda: None)


def test_list_names_questions_without_importing_studies(gelato, write):
    write("first")
    write("second", text='raise ImportError("listing needs no study")\nStudy(question="Why?")')
    code, text, _ = gelato("experiment", "list")
    assert (code, text) == (0, "first   Does first count?\nsecond  Why?\n")
    code, text, _ = gelato("experiment", "list", "--json", "-")
    assert json.loads(text)["studies"][1] == {"name": "second", "question": "Why?"}


def test_list_loads_nothing_heavy():
    script = (
        "import sys\nfrom gelato_jax.cli.main import run\nassert run(['experiment', 'list']) == 0\n"
        "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.mark.parametrize("name", registry.STUDIES)
def test_every_study_is_registered_by_its_name(name):
    study = registry.load(name)
    assert study.name == name
    assert study.question == registry.question(name)
    assert type(study.quick) is type(study.full)
    runner.as_json(study.quick)
    runner.as_json(study.full)


def test_run_report_and_run_again(gelato, write, out):
    write("first")
    write("second", seed=1)
    code, text, error = gelato("experiment", "run", "all", "--out", str(out))
    assert code == 0
    assert [line.split(" in ")[0] for line in text.splitlines()[:2]] == ["first: done", "second: done"]
    assert text.splitlines()[-1] == f"gelato experiment report {out}"
    assert "gelato: first: counting" in error
    code, text, _ = gelato("experiment", "run", "all", "--out", str(out))
    assert (code, text.count("done before with the same settings")) == (0, 2)
    code, text, _ = gelato("experiment", "report", str(out))
    assert code == 0
    assert "Of 2 claims 2 hold" in text
    assert (out / "report.html").exists()
    code, text, _ = gelato("experiment", "report", str(out), "--json", "-")
    assert [claim["study"] for claim in json.loads(text)["claims"]] == ["first", "second"]
    assert json.loads(text)["missing"] == {}


def test_a_failing_study_is_one_line_and_the_others_go_on(gelato, write, out):
    write("first", body='raise RuntimeError("no power\\n  at all")')
    write("broken", text="import gelato_is_not_a_module")
    write("last")
    code, text, error = gelato("experiment", "run", "all", "--out", str(out))
    assert code == 1
    assert text.startswith("last: done")
    faults = [line for line in error.splitlines() if "failed" in line]
    trace = runner.failure_file(out, "first")
    assert faults[0] == f"gelato: first: failed, RuntimeError: no power at all; see {trace}"
    assert faults[1].startswith("gelato: broken: failed, ModuleNotFoundError")
    assert "Traceback" in trace.read_text()
    _, text, _ = gelato("experiment", "report", str(out))
    assert "first: the last run failed" in text
    write("first")
    assert gelato("experiment", "run", "first", "--out", str(out))[0] == 0
    assert not trace.exists()


def test_ctrl_c(gelato, write, out):
    write("first")
    write("second", body="raise KeyboardInterrupt")
    write("third")
    code, text, error = gelato("experiment", "run", "all", "--out", str(out))
    assert code == 130
    assert text.startswith("first: done")
    assert "third" not in text
    assert error.endswith("gelato: stopped; the same command goes on\n")
    assert {path.name for path in out.iterdir()} <= {"first", ".lock"}


def test_a_recording_of_ones_own(gelato, write, out):
    write("first")
    text = MODULE.format(name="second", body="assert settings.recording.endswith('.npz')", seed=0)
    text = text.replace('{"seed": 0}', 'Settings("short-greedy")').replace('{"seed": 7}', 'Settings("short-greedy")')
    write("second", text=f"{SETTINGS}{text}")
    code, said, _ = gelato("experiment", "run", "all", "--recording", str(SHORT), "--out", str(out))
    assert code == 0
    assert said.startswith("second: done")
    assert not (out / "first").exists()
    record = json.loads((out / "second" / "run.json").read_text())
    assert record["settings"] == {"recording": str(SHORT)}
    assert record["command"] == f"gelato experiment run second --preset quick --recording {SHORT} --out DIR"
    _, said, _ = gelato("experiment", "run", "second", "--recording", str(SHORT), "--out", str(out))
    assert said.startswith("second: done before with the same settings")
    code, said, error = gelato("experiment", "run", "second", "--out", str(out))  # other settings: run, and refused
    assert (code, "AssertionError" in error) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nonsense", "--out", "{out}"], ["nonsense", "all", "first"]),
        (["run", "first"], ["--out"]),
        (["run", "first", "--preset", "slow", "--out", "{out}"], ["--preset", "slow", "quick"]),
        (["run", "first", "--out", "{file}"], ["not a folder", "--out"]),
        (["run", "first", "--out", "{file}/under"], ["under"]),
        (["run", "first", "--recording", "{out}/none.npz", "--out", "{out}"], ["none.npz"]),
        (["run", "first", "--recording", "{file}", "--out", "{out}"], ["is no recording", "gelato record"]),
        (["run", "first", "--recording", "{shipped}", "--out", "{out}"], ["first is not a study of one recording"]),
        (["report", "{out}"], ["no such folder", "gelato experiment run all"]),
        (["report", "{file}"], ["no such folder", "gelato experiment run all"]),
        (["list", "--json", "{file}/x.json"], ["x.json"]),
        ([], ["list", "run", "report"]),
    ],
)
def test_one_line(gelato, write, tmp_path, out, arguments, words):
    write("first")
    (tmp_path / "file").write_text("")
    places = {"out": out, "file": tmp_path / "file", "shipped": SHORT}
    code, text, error = gelato("experiment", *(argument.format(**places) for argument in arguments))
    assert (code, text) == (2, "")
    assert error.startswith("gelato: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not out.exists()


def test_two_runs_in_one_folder(gelato, write, out):
    write("first")
    with runner.locked(out):
        code, _, error = gelato("experiment", "run", "first", "--out", str(out))
    assert (code, error.count("\n")) == (2, 1)
    assert "another run" in error


def test_a_missing_extra_names_the_fix(gelato, write, out, monkeypatch):
    write("first")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "scipy" else find(name, *rest))
    code, _, error = gelato("experiment", "run", "first", "--out", str(out))
    assert code == 2
    assert error == "gelato: error: studies need scipy: pip install 'gelato-jax[experiments]'\n"
    assert not out.exists()
