"""`gelato train-draft` on a tiny checkpoint, in processes of its own where it is killed."""

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gelato_checkpoints
from gelato_checkpoints import TokenizerSpec, save_checkpoint
from gelato_jax.cli import train_draft
from gelato_jax.cli.main import run
from gelato_jax.testing import tiny_config, tiny_model
from gelato_jax.training import recipe
from gelato_jax.training.corpus import CorpusSettings
from gelato_jax.training.distill import TrainSettings
from gelato_jax.training.run import SAVE_EVERY_S
from gelato_jax.training.warm_start import DraftShape

TOKENIZER = Path(__file__).parents[1] / "golden" / "llama" / "tokenizer.json"
TEMPLATE = "{% for m in messages %}{{ bos_token + m['content'] + eos_token }}{% endfor %}{{ bos_token }}"
COMMAND = [sys.executable, "-c", "from gelato_jax.cli.main import main; main()"]
WRITING = ["--tokens", "3000", "--slots", "64", "--rows", "16", "--longest-user", "8", "--longest-answer", "16"]
TRAINING = [
    *("--layers", "0,3", "--vocabulary", "200", "--num-recorded", "12"),
    *("--tokens-per-batch", "1024", "--epochs", "3", "--dtype", "float32"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = tiny_model(tiny_config(272, 4), sharpness=3.0)
    return save_checkpoint(
        tmp_path_factory.mktemp("target") / "tiny",
        config=model.config,
        parameters={path: np.asarray(array) for path, array in model.params.items()},
        tokenizer=TokenizerSpec(
            tokenizer_json=TOKENIZER.read_text(), chat_template=TEMPLATE, bos_id=257, eos_ids=(258,)
        ),
        provenance={},
    )


@pytest.fixture
def call(monkeypatch, tmp_path, capfd):
    """Run a command line in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = run(arguments)
        except SystemExit as end:
            code = end.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def test_killed_it_goes_on_and_ends_as_if_it_had_not_been(call, checkpoint, tmp_path):
    killed, whole, log = tmp_path / "killed", tmp_path / "whole", tmp_path / "killed" / "training" / "log.jsonl"
    options = ["train-draft", "--target", str(checkpoint), *TRAINING]
    first = [*options, *WRITING, "--out", str(killed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GELATO_CACHE": str(tmp_path / "cache")}
    arguments = [*COMMAND, *first, "--save-every-s", "0"]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert not (killed / "run.json").exists()
    before = json.loads(log.read_text().splitlines()[1])["step"]

    code, out, error = call(*first)
    assert code == 0, error
    assert "after 1 layers: greedy agreement 0." in out
    assert f"gelato generate --draft {killed}" in out
    assert "gelato: training" in error
    assert " tokens/s, 0:0" in error
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == sorted(steps)
    assert before > 0
    assert (killed / "curve.png").read_bytes().startswith(b"\x89PNG")

    code, _, error = call(*options, "--out", str(whole), "--corpus", str(killed / "training" / "corpus"))
    assert code == 0, error
    ours, theirs = (json.loads((folder / "run.json").read_text())["metrics"] for folder in (killed, whole))
    assert ours == theirs

    pair = gelato_checkpoints.load_pair(str(checkpoint), str(killed))
    assert pair.draft.model.config.exits == (1, 2)
    assert pair.draft.model.config.weight_format == "int8"

    code, out, _ = call(*first)
    assert code == 0  # a finished run is reported again
    assert "held out" in out
    code, out, error = call(*first, "--seed", "1")
    assert (code, out) == (2, "")
    assert error.splitlines()[-1] == (
        f"gelato: error: {killed}: was begun with --seed 0, now it is 1; take 0 again, or another --out"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--out"]),
        (["--out", "x", "--layers", "0;1"], ["--layers", "'0;1'", "whole numbers", "0,1,2"]),
        (["--out", "x", "--temperatures", "warm"], ["--temperatures", "'warm'", "numbers"]),
        (["--out", "x", "--epochs", "0"], ["--epochs", "0", "at least"]),
        (["--out", "x", "--slots", "2000"], ["--slots", "2000", "8..1024"]),
        (["--out", "x", "--corpus", "/nowhere"], ["--corpus", "/nowhere", "does not exist"]),
        (["--out", "x", "--corpus", "/", "--tokens", "7"], ["--tokens", "no effect", "--corpus"]),
    ],
)
def test_mistakes_are_one_line_and_load_nothing(call, monkeypatch, arguments, words):
    def refuse(*_, **__):
        raise AssertionError("loaded a model before looking at the options")

    monkeypatch.setattr(gelato_checkpoints, "load_checkpoint", refuse)
    code, out, error = call("train-draft", *arguments)
    assert (code, out) == (2, "")
    assert error.startswith("gelato: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers", "0,9"], "layers (0, 9) must lie in 0..3"),
        (["--exits", "3"], "exits (3,) must ascend from 1 and end at 4"),
        (["--slots", "16"], "slots is 16, must be at least"),
    ],
)
def test_settings_that_the_target_refuses_leave_nothing_behind(call, checkpoint, tmp_path, options, words):
    code, _, error = call("train-draft", "--target", str(checkpoint), "--out", str(tmp_path / "x"), *options)
    assert code == 2
    assert words in error.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_defaults_are_those_of_the_settings():
    """The options import nothing heavy, so their defaults are copies."""
    options = {
        field.name: field.default
        for group in (train_draft.CorpusOptions, train_draft.TrainOptions, train_draft.ShapeOptions)
        for field in dataclasses.fields(group)
    }
    settings = {
        field.name: field.default
        for record in (CorpusSettings, TrainSettings)
        for field in dataclasses.fields(record)
        if field.name != "seed"
    }
    settings["temperatures"] = ",".join(map(str, settings["temperatures"]))
    extra = {"corpus": None, "layers": None, "exits": None, "vocabulary": DraftShape.vocabulary}
    assert options == {**settings, **extra}
    job = {field.name: field.default for field in dataclasses.fields(train_draft.JobOptions)}
    assert (job["seed"], job["dtype"]) == (CorpusSettings.seed, recipe.Recipe.dtype)
    assert job["seed"] == TrainSettings.seed
    assert job["save_every_s"] == SAVE_EVERY_S
    assert inspect.signature(recipe.train_draft).parameters["save_every_s"].default == SAVE_EVERY_S
    assert job["target"] == gelato_checkpoints.DEFAULT_MODEL
