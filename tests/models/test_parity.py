"""Logits of our decoder against transformers' on the golden files; `tests/golden/make_golden.py` wrote them."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gelato_checkpoints import load_checkpoint, resolve
from gelato_checkpoints.convert import convert
from gelato_jax.models import Model, allocate, write

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ("llama", "qwen2", "qwen3")

# Both sides compute in float32 and differ in the order of sums: 1e-4 on tiny models, 2e-3 over SmolLM2's 30 layers.
TINY_TOLERANCE = 1e-4
SMOLLM2_TOLERANCE = 2e-3


def model_of(path) -> Model:
    checkpoint = load_checkpoint(path)
    return Model(config=checkpoint.config, params=jax.device_put(dict(checkpoint.parameters)))


@jax.jit
def logits_of(model: Model, ids, cache, lengths):
    decoder = model.bind()
    states, fresh = decoder.forward(ids, cache, lengths)
    return decoder.unembed(states), fresh


def whole(model: Model, ids: np.ndarray) -> np.ndarray:
    """Logits of all positions from one window."""
    rows, window = ids.shape
    lengths = np.zeros(rows, np.int32)
    return np.asarray(logits_of(model, ids, allocate(model.config, rows, window), lengths)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_model_has_the_logits_of_transformers(family, tmp_path):
    golden = np.load(GOLDEN / family / "expected.npz")
    model = model_of(convert(GOLDEN / family, tmp_path / family))
    np.testing.assert_allclose(whole(model, golden["ids"]), golden["logits"], rtol=0, atol=TINY_TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_windows_through_the_cache_have_the_logits_of_one(family, tmp_path):
    golden = np.load(GOLDEN / family / "expected.npz")
    model = model_of(convert(GOLDEN / family, tmp_path / family))
    first, second = np.split(golden["ids"], 2, axis=1)
    start, middle = np.zeros(2, np.int32), np.full(2, first.shape[1], np.int32)
    cache = allocate(model.config, 2, golden["ids"].shape[1])
    head, fresh = logits_of(model, first, cache, start)
    cache = write(cache, fresh, start, after=head)
    tail, _ = logits_of(model, second, cache, middle)
    logits = np.concatenate([head, tail], axis=1)
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=TINY_TOLERANCE)


def test_smollm2_has_the_logits_of_transformers():
    golden = np.load(GOLDEN / "smollm2-135m.npz")
    logits = whole(model_of(resolve("smollm2-135m")), golden["ids"])
    rows = np.arange(len(logits))[:, None, None]
    kept = logits[rows, golden["positions"][..., None], golden["columns"]]
    np.testing.assert_allclose(kept, golden["logits"], rtol=0, atol=SMOLLM2_TOLERANCE)
    likeliest = golden["columns"][..., 0]
    assert (logits[rows[..., 0], golden["positions"]].argmax(-1) == likeliest).all()
