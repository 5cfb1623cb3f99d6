import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gelato_checkpoints import load_checkpoint
from gelato_checkpoints.convert import convert, open_source
from gelato_checkpoints.fields import Fields
from gelato_checkpoints.huggingface import parse_config
from gelato_jax.config import RopeScaling
from gelato_jax.models import parameter_shapes

FAMILIES = ("llama", "qwen2", "qwen3")
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_conversion_gives_the_models_parameters(family, foreign, tmp_path):
    model = foreign(family)
    loaded = load_checkpoint(convert(model.write(tmp_path / "hf"), tmp_path / "ours"))
    assert {path: a.shape for path, a in loaded.parameters.items()} == parameter_shapes(loaded.config)
    layer = "model.layers.1"
    parts = [model.tensors[f"{layer}.self_attn.{n}_proj.weight"].T for n in "qkv"]
    np.testing.assert_array_equal(loaded.parameters["layers.1.attention.qkv.kernel"], np.concatenate(parts, axis=1))
    gate, up = (model.tensors[f"{layer}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
    np.testing.assert_array_equal(loaded.parameters["layers.1.mlp.gate_up.kernel"], np.concatenate([gate, up], axis=1))
    down = model.tensors[f"{layer}.mlp.down_proj.weight"].T
    np.testing.assert_array_equal(loaded.parameters["layers.1.mlp.down.kernel"], down)
    assert ("head.kernel" in loaded.parameters) == (family == "qwen2")


def test_config_fields_of_the_families(foreign, tmp_path):
    llama, qwen2, qwen3 = (open_source(foreign(f).write(tmp_path / f)).config for f in FAMILIES)
    assert llama.rope_scaling == RopeScaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )
    assert (llama.rope_theta, llama.head_dim, llama.tied_head, llama.qkv_bias) == (500000.0, 16, True, False)
    assert (qwen2.qkv_bias, qwen2.tied_head, qwen2.qk_norm, qwen2.rope_scaling) == (True, False, False, None)
    assert (qwen3.qk_norm, qwen3.head_dim, qwen3.qkv_bias) == (True, 32, False)
    assert (llama.vocab_size, llama.known_vocab_size) == (272, 262)


def test_rope_parameters_of_newer_configs_mean_the_same(foreign, tmp_path):
    old, new = foreign("llama"), foreign("llama")
    new.config["rope_parameters"] = new.config.pop("rope_scaling") | {"rope_theta": new.config.pop("rope_theta")}
    assert open_source(new.write(tmp_path / "new")).config == open_source(old.write(tmp_path / "old")).config


def test_shards_read_like_one_file(foreign, tmp_path):
    whole, sharded = foreign("qwen3"), foreign("qwen3")
    names = list(sharded.tensors)
    sharded.shards = [names[::2], names[1::2]]
    one = load_checkpoint(convert(whole.write(tmp_path / "one"), tmp_path / "a")).parameters
    two = load_checkpoint(convert(sharded.write(tmp_path / "two"), tmp_path / "b")).parameters
    for path in one:
        np.testing.assert_array_equal(one[path], two[path])


@pytest.mark.parametrize(("stored", "dtype", "kept"), [
    (ml_dtypes.bfloat16, "float32", np.float32),
    (ml_dtypes.bfloat16, "auto", ml_dtypes.bfloat16),
    (np.float16, "auto", np.float32),
    (np.float32, "bfloat16", ml_dtypes.bfloat16),
])  # fmt: skip
def test_storage_types(stored, dtype, kept, foreign, tmp_path):
    model = foreign("llama")
    model.tensors = {name: tensor.astype(stored) for name, tensor in model.tensors.items()}
    loaded = load_checkpoint(convert(model.write(tmp_path / "hf"), tmp_path / "ours", dtype=dtype))
    assert {a.dtype for a in loaded.parameters.values()} == {np.dtype(kept)}
    expected = model.tensors["model.embed_tokens.weight"].astype(kept)
    np.testing.assert_array_equal(loaded.parameters["embed.embedding"], expected)


def test_known_leftovers_are_left_out(foreign, tmp_path):
    model = foreign("llama")
    model.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"].copy()
    loaded = load_checkpoint(convert(model.write(tmp_path / "hf"), tmp_path / "ours"))
    assert loaded.config.tied_head
    assert set(loaded.provenance["ignored_tensors"]) == {
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "lm_head.weight",
    }


def test_refuses_a_missing_tensor(foreign, tmp_path, refused):
    model = foreign("llama")
    del model.tensors["model.layers.1.mlp.up_proj.weight"]
    message = refused(model.write(tmp_path / "hf"))
    assert "model.safetensors: tensor 'model.layers.1.mlp.up_proj.weight' is missing" in message


def test_refuses_an_unmapped_tensor(foreign, tmp_path, refused):
    model = foreign("llama")
    model.tensors["model.layers.0.self_attn.o_proj.bias"] = np.zeros(64, np.float32)
    message = refused(model.write(tmp_path / "hf"))
    assert "model.safetensors: tensor 'model.layers.0.self_attn.o_proj.bias' has no place" in message


def test_refuses_a_mis_shaped_tensor(foreign, tmp_path, refused):
    model = foreign("qwen2")
    model.tensors["model.layers.0.self_attn.k_proj.bias"] = np.zeros(31, np.float32)
    message = refused(model.write(tmp_path / "hf"))
    assert "model.safetensors: tensor 'model.layers.0.self_attn.k_proj.bias' has shape (31,)" in message
    assert "(32,)" in message


def test_refuses_a_tensor_in_two_shards(foreign, tmp_path, refused):
    model = foreign("llama")
    names = list(model.tensors)
    model.shards = [names[:5], names[4:]]
    assert f"model-1.safetensors: tensor {names[4]!r} is also in model-0" in refused(model.write(tmp_path / "hf"))


@pytest.mark.parametrize("sharded", [False, True])
def test_files_beside_the_weights_are_not_read(sharded, foreign, tmp_path):
    model = foreign("llama")
    names = list(model.tensors)
    model.shards = [names[:5], names[5:]] if sharded else []
    folder = model.write(tmp_path / "hf")
    save_file({names[0]: model.tensors[names[0]] + 1, "lora.weight": np.ones(3)}, folder / "adapter.safetensors")
    source = open_source(folder)
    assert source.tensors.keys() == model.tensors.keys()
    assert folder / "adapter.safetensors" not in source.files
    np.testing.assert_array_equal(source.tensors[names[0]].read(), model.tensors[names[0]])


def test_refuses_a_folder_whose_only_weights_are_named_otherwise(foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")
    assert "no model.safetensors and no model.safetensors.index.json, found adapter.safetensors" in refused(folder)


@pytest.mark.parametrize("weight_map", [{}, "model-0.safetensors", {"model.norm.weight": 3}])
def test_refuses_an_index_that_names_no_files(weight_map, foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "model.safetensors.index.json: " in refused(folder)


def test_refuses_a_truncated_file(foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][1])
    file.write_bytes(content[:-3])
    assert f"model.safetensors: tensor {last!r} is truncated" in refused(folder)
    file.write_bytes(content[:100])
    assert "model.safetensors: truncated in its header" in refused(folder)


def test_refuses_a_shard_that_is_not_there(foreign, tmp_path, refused):
    model = foreign("llama")
    names = list(model.tensors)
    model.shards = [names[:5], names[5:]]
    folder = model.write(tmp_path / "hf")
    (folder / "model-1.safetensors").unlink()
    assert "model-1.safetensors: named by model.safetensors.index.json" in refused(folder)


def test_refuses_a_tensor_that_its_shard_lacks(foreign, tmp_path, refused):
    model = foreign("llama")
    names = list(model.tensors)
    model.shards = [names[:5], names[5:]]
    folder = model.write(tmp_path / "hf")
    save_file({name: model.tensors[name] for name in names[6:]}, folder / "model-1.safetensors")
    assert f"model-1.safetensors: tensor {names[5]!r} is missing" in refused(folder)


def test_refuses_values_that_are_not_finite(foreign, tmp_path, refused):
    model = foreign("llama")
    model.tensors["model.norm.weight"][3] = np.nan
    assert "model.safetensors: tensor 'model.norm.weight' holds values" in refused(model.write(tmp_path / "hf"))


def test_refuses_integer_tensors(foreign, tmp_path, refused):
    model = foreign("llama")
    model.tensors["model.norm.weight"] = np.ones(64, np.int8)
    assert "tensor 'model.norm.weight' has type I8" in refused(model.write(tmp_path / "hf"))


def test_refuses_a_folder_of_pickles(foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refused(folder)
    assert "only pytorch_model.bin, and pickle files are never read" in message


def test_refuses_a_head_that_a_tied_config_would_drop(foreign, tmp_path, refused):
    model = foreign("llama")
    model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"] + 1
    assert "'lm_head.weight' differs from the embedding" in refused(model.write(tmp_path / "hf"))


@pytest.mark.parametrize(("family", "change", "expected"), [
    ("llama", {"architectures": ["MixtralForCausalLM"]}, "architecture 'MixtralForCausalLM' is not supported"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn' is not supported"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear' is not supported"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope field 'low_freq_factor' is missing"),
    ("llama", {"rope_scaling": "llama3"}, "rope_scaling = 'llama3' must be an object of named values"),
    ("llama", {"rope_scaling": ["llama3", 8.0]}, "rope_scaling = ['llama3', 8.0] must be an object"),
    ("llama", {"rope_scaling": {"rope_type": 3}}, "rope_type = 3 must be a string"),
    ("llama", {"rope_scaling": LLAMA3 | {"factor": "8"}}, "factor = '8' must be a positive number"),
    ("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor 1.0 must be below"),
    ("llama", {"rope_parameters": LLAMA3 | {"factor": 8.0}}, "and rope_scaling differ in factor"),
    ("llama", {"rope_theta": "500000"}, "rope_theta = '500000' must be a positive number"),
    ("qwen3", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5 is not supported"),
    ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
    ("qwen3", {"rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}, "has no 'full_attention'"),
    ("qwen3", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope type 'yarn' is not supported"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}, "sliding_window = 32"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types = "),
    ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, "layer_types = "),
    ("llama", {"sliding_window": 4096}, "sliding_window = 4096 is not supported"),
    ("qwen3", {"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false' must be true or false"),
    ("qwen3", {"num_hidden_layers": "2"}, "num_hidden_layers = '2' must be a whole number, at least 1"),
    ("qwen3", {"num_hidden_layers": 1.5}, "num_hidden_layers = 1.5 must be a whole number"),
    ("qwen3", {"hidden_size": True}, "hidden_size = True must be a whole number"),
    ("qwen3", {"architectures": [["Qwen3ForCausalLM"]]}, "architecture ['Qwen3ForCausalLM'] is not supported"),
    ("llama", {"attention_bias": True}, "attention_bias = True is not supported"),
    ("llama", {"mlp_bias": True}, "mlp_bias = True is not supported"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32}, "sliding_window = 32 is not supported"),
    ("qwen3", {"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    ("qwen3", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
    ("qwen3", {"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ("qwen3", {"rms_norm_eps": None}, "config.json"),
    ("qwen2", {"vocab_size": 261}, "vocab_size 261 is below the tokenizer's 262 ids"),
])  # fmt: skip
def test_refuses_configs_that_mean_another_computation(family, change, expected, foreign, tmp_path, refused):
    model = foreign(family)
    model.config |= change
    message = refused(model.write(tmp_path / "hf"))
    assert expected in message
    assert "config.json" in message


@pytest.mark.parametrize(("family", "change"), [
    ("qwen2", {"use_sliding_window": False, "sliding_window": 4096}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 131072, "max_window_layers": 0}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": None}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 32, "layer_types": ["full_attention"] * 2}),
    ("qwen3", {"sliding_window": 131072, "layer_types": ["sliding_attention"] * 2}),
    ("llama", {"sliding_window": 131072}),
])  # fmt: skip
def test_a_window_that_hides_nothing_is_no_window(family, change, foreign, tmp_path):
    plain, windowed = foreign(family), foreign(family)
    windowed.config |= change
    windowed, plain = windowed.write(tmp_path / "windowed"), plain.write(tmp_path / "plain")
    assert open_source(windowed).config == open_source(plain).config


@pytest.mark.parametrize("change", [
    {"rope_scaling": {"type": "linear", "factor": 1.0}},
    {"rope_scaling": {"rope_type": "linear", "factor": 1}},
    {"rope_scaling": {"rope_type": "default"}},
    {"rope_scaling": None, "rope_parameters": {"rope_type": None, "partial_rotary_factor": 1.0}},
])  # fmt: skip
def test_a_scaling_that_changes_nothing_is_none(change, foreign, tmp_path):
    model = foreign("llama")
    model.config |= change
    config = open_source(model.write(tmp_path / "hf")).config
    assert (config.rope_scaling, config.rope_theta) == (None, 500000.0)


def test_rope_parameters_by_attention_type_are_those_of_full_attention(foreign, tmp_path):
    model = foreign("llama")
    del model.config["rope_scaling"]
    full, sliding = LLAMA3 | {"rope_theta": 2e6}, {"rope_type": "default", "rope_theta": 1e4}
    model.config["rope_parameters"] = {"full_attention": full, "sliding_attention": sliding}
    config = open_source(model.write(tmp_path / "hf")).config
    assert config.rope_theta == 2e6
    assert config.rope_scaling == RopeScaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )


@pytest.mark.parametrize(("family", "head_dim"), [("llama", 16), ("qwen2", 16), ("qwen3", 128)])
@pytest.mark.parametrize("absent", [{}, {"head_dim": None}])
def test_the_width_of_a_head_that_is_not_said_is_the_familys(family, head_dim, absent, foreign):
    fields = {name: value for name, value in foreign(family).config.items() if name != "head_dim"}
    assert parse_config(Fields(fields | absent, Path("config.json"))).head_dim == head_dim


def test_refuses_an_untied_config_without_a_head(foreign, tmp_path, refused):
    for name, config in (("false", {"tie_word_embeddings": False}), ("absent", {"tie_word_embeddings": None})):
        model = foreign("llama")
        model.config |= config
        message = refused(model.write(tmp_path / name))
        assert "config.json: tie_word_embeddings is false and the weights have no tensor 'lm_head.weight'" in message
        assert "set it to true" in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_refuses_a_folder_without(name, foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / name).unlink()
    assert f"{name}: no such file" in refused(folder)


def test_refuses_json_cut_short(foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "config.json").write_text('{"architectures": [')
    assert "config.json: not readable as JSON" in refused(folder)
