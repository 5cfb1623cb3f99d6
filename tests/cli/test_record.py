"""`gelato record` on a tiny pair: the file, the summary, the choice of prompts, the mistakes."""

import json

import pytest

import gelato_checkpoints
from gelato_jax.simulation import rollouts
from gelato_jax.simulation.recording import load
from gelato_jax.testing import tiny_pair

PROMPTS = [("odd", "3 1 4"), ("odd", "5 9 2 6 5"), ("even", "8 2"), ("even", "2 4 6 8 10 12")]
SMALL = ("--max-new-tokens", "6", "--max-draft-length", "2", "--batch-rows", "2")


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(0.1, exits=(1,))


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"category": kind, "turns": [text]}) + "\n" for kind, text in PROMPTS))
    return path


def test_recording_and_summary(gelato, prompt_file, tmp_path, monkeypatch):
    out = tmp_path / "traces.npz"
    code, text, error = gelato("record", "--prompts", str(prompt_file), "--out", str(out), *SMALL)
    assert code == 0
    assert "gelato: recording" in error
    recording = load(out)
    assert recording.categories == ("odd", "odd", "even", "even")
    assert recording.rollouts.entropy.shape == (4, 5, 2, 2)
    assert recording.about["pair"] == "smollm2-135m"
    assert recording.about["draft"] == "default"
    assert recording.about["prompt_file"] == "prompts.jsonl"
    assert all(words in text for words in ("4 texts", "after 1 layers", "after 3 layers", "of 2 drafted", str(out)))

    def refuse(*_, **__):
        raise AssertionError("ran what is kept")

    monkeypatch.setattr(rollouts, "start", refuse)
    code, text, _ = gelato("record", "--prompts", str(prompt_file), "--out", str(out), *SMALL, "--json", "-")
    assert code == 0
    report = json.loads(text)
    assert report["texts"] == 4
    assert report["positions"] == int(recording.rollouts.positions.sum())
    assert report["exits"] == [1, 3]
    assert len(report["mean_accepted"]) == 2
    assert report["bytes"] == out.stat().st_size
    assert report["about"]["versions"]


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        (["--shorter-than", "5"], [3, 2]),
        (["--longer-than", "3"], [5, 6]),
        (["--longer-than", "2", "--shorter-than", "6"], [3, 5]),
        (["--longer-than", "2", "--limit", "2"], [3, 5]),
        (["--limit", "2", "--temperature", "1"], [3, 2]),
    ],
)
def test_which_prompts(gelato, prompt_file, tmp_path, options, lengths):
    out = tmp_path / "traces.npz"
    code, _, error = gelato("record", "--prompts", str(prompt_file), "--out", str(out), *SMALL, *options)
    assert code == 0, error
    assert load(out).rollouts.prompt_tokens.tolist() == lengths


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--out"]),
        (["--out", "/nowhere/traces.npz"], ["/nowhere/traces.npz", "No such file"]),
        (["--out", "/dev"], ["--out", "/dev", "folder"]),
        (["--out", "x.npz", "--json", "/nowhere/out.json"], ["/nowhere/out.json", "No such file"]),
        (["--out", "x.npz", "--prompts", "/nowhere/prompts.jsonl"], ["/nowhere/prompts.jsonl", "No such file"]),
        (["--out", "x.npz", "--max-draft-length", "0"], ["--max-draft-length", "0", "1..32"]),
        (["--out", "x.npz", "--max-draft-length", "33"], ["--max-draft-length", "33", "1..32"]),
        (["--out", "x.npz", "--max-new-tokens", "1"], ["--max-new-tokens", "1", "at least 2"]),
        (["--out", "x.npz", "--limit", "0"], ["--limit", "0", "at least 1"]),
        (["--out", "x.npz", "--temperature", "-1"], ["--temperature", "-1"]),
        (["--out", "x.npz", "--seed", "-1"], ["--seed", "-1"]),
        (["--out", "x.npz", "--batch-rows", "0"], ["--batch-rows", "0"]),
    ],
)
def test_a_mistake_is_one_line(gelato, monkeypatch, tmp_path, arguments, words):
    def refuse(*_, **__):
        raise AssertionError("loaded a model before looking at the options")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gelato_checkpoints, "load_pair", refuse)
    code, out, error = gelato("record", *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("gelato: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("1 2 3\n4 5\n", ["--longer-than", "7"], ["--longer-than 7 leaves none of 2 prompts", "2 to 3 tokens"]),
        ("1 2 3\n" + "5 " * 5000, [], ["prompt 1 has 5000 tokens"]),
        ("\n", [], ["holds no prompt"]),
    ],
)
def test_prompts_that_do_not_do(gelato, tmp_path, text, options, words):
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    code, _, error = gelato("record", "--prompts", str(path), "--out", str(tmp_path / "traces.npz"), *options)
    assert code == 2
    assert error.splitlines()[-1].startswith("gelato: error: ")
    assert all(word in error.splitlines()[-1] for word in words), error
