"""`gelato eval-weights`: figures against NumPy, and mistakes."""

import numpy as np
import pytest

from gelato_experiments.benchmarks.weights import evaluate
from gelato_jax.cli.eval_weights import _lines
from gelato_jax.cli.main import run
from gelato_jax.cli.options import WeightsName
from gelato_jax.models import quantize, random_model
from gelato_jax.testing import tiny_config


@pytest.fixture(scope="module")
def figures():
    model = random_model(tiny_config(vocab_size=83, hidden_size=64, mlp_size=96, head_dim=16))
    texts = np.random.default_rng(0).integers(0, 83, (4, 20)).tolist()
    models = {"float32 again": model, "q8": quantize(model, "q8"), "q4": quantize(model, "q4")}
    return evaluate(model, models, texts)


def test_a_model_beside_itself_loses_nothing(figures):
    itself = figures["float32 again"]
    assert (itself["change"], itself["change_error"], itself["same"]) == (0.0, 0.0, 100.0)
    assert itself["perplexity"] == figures["float32"]["perplexity"]


def test_fewer_bits_change_more(figures):
    for kind in ("q8", "q4"):
        change = 100 * (figures[kind]["perplexity"] / figures["float32"]["perplexity"] - 1)
        assert figures[kind]["change"] == pytest.approx(change, abs=1e-3)
    assert abs(figures["q8"]["change"]) < abs(figures["q4"]["change"])
    assert 100 > figures["q8"]["same"] > figures["q4"]["same"]
    assert figures["float32"]["megabytes"] > figures["q8"]["megabytes"] > figures["q4"]["megabytes"]


def test_a_line_for_each_precision(figures):
    lines = _lines(figures)
    assert [line.split()[0] for line in lines[1:]] == ["float32", "float32", "q8", "q4"]


@pytest.mark.parametrize("options", [["--tokens", "1"], ["--limit", "0"]])
def test_mistakes_are_one_line(options, capsys):
    assert run(["eval-weights", *options]) == 2
    assert "must be at least" in capsys.readouterr().err


def test_the_command_line_knows_every_precision():
    from gelato_checkpoints.weights import Weights

    assert WeightsName == Weights
