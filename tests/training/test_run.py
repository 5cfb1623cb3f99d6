"""A training run: it learns, goes on after a kill as if nothing had been, and shares its batches among devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.training.batches import Batches
from gelato_jax.training.curve import plot_curve
from gelato_jax.training.distill import TrainSettings
from gelato_jax.training.run import read_log, train
from gelato_jax.training.warm_start import DraftShape, warm_start

VOCABULARY = np.arange(61)
SETTINGS = TrainSettings(epochs=6, tokens_per_batch=1024, learning_rate=1e-2, warmup=0.1)
TWO_STEPS = TrainSettings(epochs=0.1, tokens_per_batch=1024)


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.fixture(scope="module")
def draft(target):
    """Half of the target's layers: it begins with little agreement."""
    return warm_start(target, DraftShape(layers=(0, 3), exits=(1, 2), vocabulary=61), VOCABULARY)


@pytest.fixture(scope="module")
def batches(corpus):
    held_out, taught = corpus[0][::10], [c for index, c in enumerate(corpus[0]) if index % 10]
    return [
        Batches(part, np.array([5, 6, 7]), VOCABULARY, tokens_per_batch=SETTINGS.tokens_per_batch)
        for part in (taught, held_out)
    ]


@pytest.fixture(scope="module")
def run(draft, batches, tmp_path_factory):
    """Train whole, in a folder of its own: (draft, folder)."""
    folder = tmp_path_factory.mktemp("run")
    calls = []
    trained = train(
        draft,
        batches[0],
        SETTINGS,
        folder,
        dtype=jnp.float32,
        held_out=batches[1],
        measurements=4,
        progress=lambda done, total, report: calls.append((done, total)),
    )
    assert calls == [(step + 1, len(calls)) for step in range(len(calls))]
    return trained, folder


def test_a_draft_learns(run):
    looks = [line for line in read_log(run[1]) if line["kind"] == "held_out"]
    first = next(line for line in read_log(run[1]) if line["kind"] == "train")
    assert len(looks) == 4
    assert looks[-1]["agreement_1"] > first["agreement_1"] + 0.1
    assert looks[-1]["agreement_1"] > 0.5
    assert looks[-1]["divergence_1"] < looks[0]["divergence_1"]
    assert looks[-1]["acceptance_1"] > 0.5


def test_the_model_that_was_given_is_kept(run, draft):
    assert not any(array.is_deleted() for array in draft.params.values())
    np.testing.assert_array_equal(run[0].params["embed.embedding"], draft.params["embed.embedding"])


def test_a_killed_run_ends_as_one_that_was_not(run, draft, batches, tmp_path):
    at = 11

    def kill(done: int, total: int, report: dict) -> None:
        if done == at:
            raise Killed

    common = {"dtype": jnp.float32, "held_out": batches[1], "measurements": 4}
    with pytest.raises(Killed):
        train(draft, batches[0], SETTINGS, tmp_path, progress=kill, save_every_s=0.0, **common)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 99, "kind": "tra')  # torn by the kill
    steps = []
    trained = train(
        draft, batches[0], SETTINGS, tmp_path, progress=lambda done, total, report: steps.append(done), **common
    )
    assert steps[0] == at  # the killed step was not yet on the disk: one interval is lost
    assert read_log(tmp_path) == read_log(run[1])
    for path, array in run[0].params.items():
        np.testing.assert_array_equal(trained.params[path], array)


def test_a_finished_run_is_read(run, draft, batches):
    steps = []
    again = train(
        draft, batches[0], SETTINGS, run[1], dtype=jnp.float32, progress=lambda done, *rest: steps.append(done)
    )
    assert steps == []
    assert all(np.array_equal(again.params[path], array) for path, array in run[0].params.items())


def test_the_curve_is_a_picture_of_the_log(run, tmp_path):
    plot_curve(run[1], tmp_path / "curve.png", exits=(1, 2))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


ON_TWO_DEVICES = """
import json, sys, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from gelato_jax.testing import tiny_config, tiny_model
from gelato_jax.training.batches import Batches
from gelato_jax.training.corpus import read_corpus
from gelato_jax.training.distill import TrainSettings
from gelato_jax.training.run import train
from gelato_jax.training.warm_start import DraftShape, warm_start
corpus, out = map(Path, sys.argv[1:])
target = tiny_model(tiny_config(61, 4), sharpness=3.0)
draft = warm_start(target, DraftShape(layers=(0, 3), exits=(1, 2), vocabulary=61), np.arange(61))
taught = [c for index, c in enumerate(read_corpus(corpus)) if index % 10]
batches = Batches(taught, np.array([5, 6, 7]), np.arange(61), tokens_per_batch=1024, multiple=2)
settings = TrainSettings(epochs=0.1, tokens_per_batch=1024)
trained = train(draft, batches, settings, out, dtype=jnp.float32)
devices = len(trained.params["head.kernel"].sharding.device_set)
np.savez(out / "result.npz", devices=devices, **trained.params)
"""


def test_two_devices_take_the_steps_of_one(draft, batches, corpus, tmp_path):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", ON_TWO_DEVICES, str(corpus[1]), str(tmp_path / "two")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = dict(np.load(tmp_path / "two" / "result.npz"))
    assert two.pop("devices") == 2
    one = train(draft, batches[0], TWO_STEPS, tmp_path / "one", dtype=jnp.float32).params
    assert one.keys() == two.keys()
    for path, array in one.items():
        np.testing.assert_allclose(two[path], array, rtol=1e-4, atol=1e-4)


def test_bfloat16_products_learn_like_float32(draft, batches, tmp_path):
    reports = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        steps = reports[dtype] = []
        note = lambda done, total, report, steps=steps: steps.append(report["loss"])  # noqa: E731
        trained = train(draft, batches[0], TWO_STEPS, tmp_path / jnp.dtype(dtype).name, dtype=dtype, progress=note)
        assert all(array.dtype == jnp.float32 for array in jax.tree.leaves(trained.params))
    narrow, wide = reports.values()
    assert narrow != wide
    np.testing.assert_allclose(narrow, wide, rtol=0.02)
