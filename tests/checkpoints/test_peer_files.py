"""Files and tensors for other engines: what our own readers make of them."""

import numpy as np
import pytest

from gelato_checkpoints import CheckpointError, convert, load_checkpoint
from gelato_checkpoints.base import silent
from gelato_checkpoints.convert import open_source
from gelato_checkpoints.keymaps import export_tensors
from gelato_experiments.benchmarks.peers import files

HALF_STEP = 0.5 / 127  # of Q8_0, whose 127 is a group's largest weight
SCALE_ROUNDING = 2.0**-11  # of the group's scale, a float16


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_8_bits_read_back_within_half_a_step(family, foreign, write_gguf, llama3_factors, tmp_path):
    model = foreign(family)
    extra = {"rope_freqs.weight": llama3_factors(16, model.config["rope_theta"])} if family == "llama" else {}
    file = write_gguf(tmp_path / "model.gguf", model, kind="Q4_1", extra=extra)
    found = files.in_8_bits(file, tmp_path / "cache", silent)
    assert files.kind_of(file) == "Q4_1"
    assert files.kind_of(found) == "Q8_0"
    before, after = open_source(file), open_source(found)
    assert after.config == before.config
    assert after.tokenizer == before.tokenizer
    assert after.tensors.keys() == before.tensors.keys()
    for name, tensor in before.tensors.items():
        old, new = tensor.read(), after.tensors[name].read()
        if old.ndim == 1:
            np.testing.assert_array_equal(new, old)
            continue
        groups = np.abs(old.reshape(-1, 32)).max(axis=1, keepdims=True)
        error = np.abs(new - old).reshape(-1, 32)
        assert (error <= groups * (HALF_STEP + SCALE_ROUNDING) + 1e-7).all(), name


def test_8_bits_are_made_once(foreign, write_gguf, tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "model.gguf", foreign("qwen3"), kind="Q4_0")
    found = files.in_8_bits(file, tmp_path / "cache", silent)
    monkeypatch.setattr(files, "write_like", None)
    assert files.in_8_bits(file, tmp_path / "cache", silent) == found
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.parent.name]


def test_a_damaged_file_is_one_line_and_leaves_nothing(foreign, write_gguf, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", foreign("qwen3"), kind="Q4_0")
    file.write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(CheckpointError, match="truncated"):
        files.in_8_bits(file, tmp_path / "cache", silent)
    assert list((tmp_path / "cache").iterdir()) == []


def test_only_a_gguf_file_has_a_source_file(foreign, write_gguf, tmp_path):
    file = write_gguf(tmp_path / "model.gguf", foreign("qwen3"))
    assert files.source_file(str(file), tmp_path, silent) == file
    assert files.source_file(str(tmp_path), tmp_path, silent) is None
    assert files.source_file("hf:OWNER/NAME", tmp_path, silent) is None
    assert files.source_file("smollm2-135m-hf", tmp_path, silent) is None


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_parameters_go_back_to_hugging_faces_names(family, foreign, tmp_path):
    model = foreign(family)
    loaded = load_checkpoint(convert(model.write(tmp_path / "hf"), tmp_path / "ours"))
    tensors = export_tensors(loaded.config, loaded.parameters)
    expected = {"lm_head.weight": model.tensors["model.embed_tokens.weight"], **model.tensors}
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)
