"""`gelato eval-draft` on a tiny pair: the report, the table, the figures, the mistakes."""

import json

import pytest

import gelato_checkpoints
from gelato_experiments import draft_figures
from gelato_jax.testing import tiny_pair
from gelato_jax.training import draft_cost

PROMPTS = [("odd", "3 1 4"), ("odd", "5 9 2 6"), ("even", "8 2"), ("even", "2 4 6"), ("even", "6")]


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(0.3, exits=(1,))


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"category": kind, "turns": [text]}) + "\n" for kind, text in PROMPTS))
    return path


def test_report_table_and_figures(gelato, prompt_file, tmp_path, monkeypatch):
    monkeypatch.setattr(draft_cost, "_CALLS", 1)
    out = tmp_path / "deep" / "eval"
    arguments = ("eval-draft", "--prompts", str(prompt_file), "--new-tokens", "12", "--out", str(out), "--timed")
    code, text, _ = gelato(*arguments)
    assert code == 0
    report = json.loads((out / "eval.json").read_text())
    assert report["exits"] == [1, 3]
    assert report["num_prompts"] == 5
    for distribution in ("greedy", "sampled"):
        categories = report[distribution]["categories"]
        assert {name: row["prompts"] for name, row in categories.items()} == {"even": 3, "odd": 2}
        assert all(0 <= value <= 1 for row in categories.values() for value in row["acceptance"])
        assert len(report[distribution]["average"]["tokens_per_round"][1]) == 12
        assert set(report[distribution]["reliability"]["held_out"]) == {"curve", "classes"}
        assert f"{report[distribution]['average']['acceptance'][1]:.3f}" in text
    assert min(report["cost"]["measured"]["share"]) > 0
    assert all(word in text for word in ("even", "odd", "greedy @1", "sampled @3", "calibration error", "weights read"))
    for name in ("reliability", "acceptance", "rounds"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    again, text, _ = gelato(*arguments[:5], "--json", "-")  # the answers come from the cache
    assert again == 0
    assert json.loads(text)["greedy"] == report["greedy"]

    reports = {"one": report, "two": {**report, "cost": {"weights": [0.1, 0.2]}}}
    assert draft_figures.frontier(reports, tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "0"], ["--limit", "0", "at least 1"]),
        (["--new-tokens", "1"], ["--new-tokens", "1", "at least 2"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--prompts", "/nowhere/prompts.jsonl"], ["/nowhere/prompts.jsonl", "No such file"]),
        (["--json", "/nowhere/out.json"], ["/nowhere/out.json", "No such file"]),
        (["--out", "/dev/null/eval"], ["/dev/null/eval", "Not a directory"]),
    ],
)
def test_a_mistake_is_one_line(gelato, monkeypatch, arguments, words):
    def refuse(*_, **__):
        raise AssertionError("loaded a model before looking at the options")

    monkeypatch.setattr(gelato_checkpoints, "load_pair", refuse)
    code, out, error = gelato("eval-draft", *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("gelato: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def test_a_prompt_too_long_is_one_line(gelato, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("1 2 3\n" + "5 " * 5000)
    code, _, error = gelato("eval-draft", "--prompts", str(path))
    assert code == 2
    assert error.splitlines()[-1].startswith("gelato: error: prompt 1 has 5000 tokens")
