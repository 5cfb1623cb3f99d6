"""Weights in blocks of few bits: made once from a checkpoint in floats, and what `auto` means."""

import json

import numpy as np
import pytest

import gelato_kernels
from gelato_checkpoints import CheckpointError, convert, load_checkpoint, load_model, load_pair, store, weights
from gelato_jax.models import quantize
from gelato_kernels import native


@pytest.fixture
def quantised(foreign, write_gguf, tmp_path, monkeypatch):
    """A converted Q4_1 file, and a cache folder of its own."""
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))
    return convert(write_gguf(tmp_path / "m.gguf", foreign("qwen3"), kind="Q4_1"), tmp_path / "floats")


def test_source_is_the_files_own_blocks(quantised):
    floats, blocks = load_checkpoint(quantised), load_checkpoint(quantised, weights="source")
    assert (floats.config.weight_format, blocks.config.weight_format) == ("float", "q4")
    assert blocks.provenance["weights"] == "q4"
    path, stack = "layers.1.mlp.gate_up.kernel", "layers.mlp.gate_up.kernel"
    matrix = gelato_kernels.unpack_blocks(
        gelato_kernels.BlockWeights(
            packed=blocks.parameters[stack],
            scales=blocks.parameters[f"{stack}_scale"],
            minimums=blocks.parameters[f"{stack}_minimum"],
            format="q4",
            shape=floats.parameters[path].shape[::-1],
            layer=np.int32(1),
        )
    )
    np.testing.assert_array_equal(matrix.T, floats.parameters[path])
    assert blocks.tokenizer.fingerprint == floats.tokenizer.fingerprint


def test_blocks_are_made_once(quantised):
    heard = []
    hear = lambda stage, done, total: heard.append(stage)  # noqa: E731
    first = load_checkpoint(quantised, weights="q8", progress=hear)
    assert "pack" in heard
    heard.clear()
    again = load_checkpoint(quantised, weights="q8", progress=hear)
    assert "pack" not in heard
    assert first.path == again.path != quantised


def test_another_checkpoint_under_the_same_name_has_blocks_of_its_own(quantised, foreign, tmp_path):
    first = load_checkpoint(quantised, weights="q4")
    convert(foreign("qwen3", seed=1).write(tmp_path / "hf"), quantised, overwrite=True)
    other = load_checkpoint(quantised, weights="q4")
    assert first.path != other.path
    assert not np.array_equal(first.parameters["embed.embedding"], other.parameters["embed.embedding"])


def test_weights_that_are_in_blocks_already_are_refused(quantised):
    blocks = load_checkpoint(quantised, weights="q4")
    assert load_checkpoint(blocks.path).config.weight_format == "q4"
    with pytest.raises(CheckpointError, match=r"weights are 'q4' already; leave --weights out"):
        load_checkpoint(blocks.path, weights="q8")
    with pytest.raises(CheckpointError, match=r"weights are 'q4', not float32; leave --weights out"):
        load_checkpoint(blocks.path, weights="float32")


@pytest.mark.parametrize("compiled", [True, False])
def test_auto_is_source_where_products_are_compiled(quantised, compiled, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: compiled)
    heard = []
    chosen = weights.settle("auto", quantised, lambda stage, *_: heard.append(stage))
    assert (chosen, heard) == (("source", []) if compiled else ("float", ["uncompiled"]))
    assert weights.settle("q8", quantised) == "q8"


def test_auto_leaves_floats_alone(foreign, tmp_path):
    folder = convert(foreign("qwen3").write(tmp_path / "hf"), tmp_path / "ours")
    assert weights.settle("auto", folder) == "float"


@pytest.mark.parametrize("compiled", [True, False])
def test_auto_keeps_bfloat16_as_it_is(compiled, foreign, tmp_path, monkeypatch):
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "available", lambda: compiled)
    folder = convert(foreign("qwen3").write(tmp_path / "hf"), tmp_path / "ours", dtype="bfloat16")
    stored, loaded = load_checkpoint(folder), load_checkpoint(folder, weights="auto")
    if not compiled:
        assert (loaded.path, loaded.config.weight_format) == (folder, "float")
        return
    assert loaded.config.weight_format == "bfloat16"
    embedding = gelato_kernels.BlockWeights(
        packed=loaded.parameters["embed.embedding"],
        scales=None,
        minimums=None,
        format="bfloat16",
        shape=stored.parameters["embed.embedding"].shape,
    )
    np.testing.assert_array_equal(
        gelato_kernels.unpack_blocks(embedding), stored.parameters["embed.embedding"].astype(np.float32)
    )
    assert load_checkpoint(folder, weights="bfloat16").path == loaded.path


def test_a_full_disk_leaves_no_blocks(quantised, tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match=r"needs .* KiB, the disk has 0 KiB free"):
        load_checkpoint(quantised, weights="q8")
    assert list((tmp_path / "cache" / "weights").glob("floats-*")) == []


def test_first_layers_draft_in_blocks_as_their_target_does(quantised):
    pair = load_pair(quantised, "layers:1", weights="source")
    assert pair.draft.model.config.weight_format == pair.target.config.weight_format == "q4"


def test_what_is_packed_is_what_quantize_makes(quantised):
    expected = quantize(load_model(load_checkpoint(quantised)), "q8").params
    found = load_checkpoint(quantised, weights="q8").parameters
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    manifest = json.loads((load_checkpoint(quantised, weights="q8").path / "manifest.json").read_text())
    assert manifest["layout"] == store.LAYOUT_VERSION
