import json

import gguf
import numpy as np
import pytest
import tokenizers
from gguf.quants import dequantize, quantize

from gelato_checkpoints import Tokenizer, load_checkpoint
from gelato_checkpoints.convert import convert, open_source
from gelato_checkpoints.gguf_tokenizer import PRE_TOKENIZERS
from gelato_jax.config import RopeScaling

FAMILIES = ("llama", "qwen2", "qwen3")


def gguf_of(model, path, write_gguf, llama3_factors, **options):
    """A GGUF file of a model, with the rotary factors that belong to its scaling."""
    extra = {}
    if model.family == "llama":
        extra["rope_freqs.weight"] = llama3_factors(16, model.config["rope_theta"])
    return write_gguf(path, model, extra=extra | options.pop("extra", {}), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_and_hugging_face_of_one_model_convert_to_the_same(family, foreign, write_gguf, llama3_factors, tmp_path):
    model = foreign(family)
    file = gguf_of(model, tmp_path / "model.gguf", write_gguf, llama3_factors)
    ours = load_checkpoint(convert(file, tmp_path / "a"))
    theirs = load_checkpoint(convert(model.write(tmp_path / "hf"), tmp_path / "b"))
    assert ours.config == theirs.config
    assert ours.parameters.keys() == theirs.parameters.keys()
    for path, array in ours.parameters.items():
        np.testing.assert_array_equal(array, theirs.parameters[path], err_msg=path)
    assert ours.tokenizer.fingerprint == theirs.tokenizer.fingerprint
    text = "Hello 12 heaps, ¿qué? 🍦<|im_end|>"
    assert ours.tokenizer.encode(text) == theirs.tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_quantised_types(kind, foreign, write_gguf, tmp_path):
    model = foreign("qwen3")
    loaded = load_checkpoint(convert(write_gguf(tmp_path / "m.gguf", model, kind=kind), tmp_path / "ours"))
    quantized = gguf.GGMLQuantizationType[kind]

    def stored(name: str) -> np.ndarray:
        return dequantize(quantize(model.tensors[name], quantized), quantized)

    np.testing.assert_array_equal(loaded.parameters["embed.embedding"], stored("model.embed_tokens.weight"))
    down = stored("model.layers.0.mlp.down_proj.weight")
    np.testing.assert_array_equal(loaded.parameters["layers.0.mlp.down.kernel"], down.T)
    assert np.abs(down - model.tensors["model.layers.0.mlp.down_proj.weight"]).max() < 0.5  # scales were read
    assert loaded.provenance["source_types"] == sorted(["F32", kind])


def q4_k_block() -> tuple[bytes, np.ndarray]:
    """One super-block of 256 values by hand (ggml-common.h, block_q4_K): d, dmin, 12 packed scales, 128 nibbles.

    Of each packed byte pair, sub-blocks 0..3 keep 6-bit scales in bytes 0..3 and minima in bytes 4..7; their top two
    bits stay 0 here, so sub-blocks 4..7 are the nibbles of bytes 8..11. Value = d * scale * q - dmin * minimum.
    """
    scales, minima = np.arange(1, 9), np.arange(8, 0, -1)
    packed = [*scales[:4], *minima[:4], *(scales[4:] | minima[4:] << 4)]
    nibbles = np.arange(256) * 7 % 16
    groups = nibbles.reshape(4, 2, 32)  # 32 bytes hold sub-block 2i in low and 2i + 1 in high nibbles
    quants = (groups[:, 0] | groups[:, 1] << 4).astype(np.uint8)
    block = np.array([0.5, 0.25], np.float16).tobytes() + bytes(int(p) for p in packed) + quants.tobytes()
    values = 0.5 * np.repeat(scales, 32) * nibbles - 0.25 * np.repeat(minima, 32)
    return block, values.astype(np.float32)


def q6_k_block() -> tuple[bytes, np.ndarray]:
    """One super-block of 256 values by hand (block_q6_K): 128 low nibbles, 64 high pairs, 16 int8 scales, d.

    Each half of 128 values is four runs of 32: runs 0 and 1 are low nibbles of 64 bytes, 2 and 3 their high nibbles;
    bits 2r..2r+1 of 32 high bytes belong to run r. Value = d * scale[i / 16] * (q - 32).
    """
    quants = (np.arange(256) * 11 % 64).reshape(2, 4, 32)
    low, high = quants & 15, quants >> 4
    lows = (low[:, 0:2] | low[:, 2:4] << 4).astype(np.uint8)
    highs = sum(high[:, r] << 2 * r for r in range(4)).astype(np.uint8)
    scales = np.arange(-8, 8).astype(np.int8)
    block = lows.tobytes() + highs.tobytes() + scales.tobytes() + np.array([0.125], np.float16).tobytes()
    values = 0.125 * np.repeat(scales.astype(np.float32), 16) * (quants.reshape(-1) - 32)
    return block, values.astype(np.float32)


@pytest.mark.parametrize(("kind", "make"), [("Q4_K", q4_k_block), ("Q6_K", q6_k_block)])
def test_k_quants_read_a_block_made_by_hand(kind, make, foreign, write_gguf, tmp_path):
    block, values = make()
    rows = np.tile(np.frombuffer(block, np.uint8), (64, 1))
    raw = {"blk.1.ffn_down.weight": (rows, kind)}
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen3"), raw=raw)
    loaded = load_checkpoint(convert(file, tmp_path / "ours"))
    np.testing.assert_allclose(loaded.parameters["layers.1.mlp.down.kernel"], np.tile(values[:, None], 64), rtol=1e-6)


def test_config_fields(foreign, write_gguf, llama3_factors, tmp_path):
    config = open_source(gguf_of(foreign("llama"), tmp_path / "m.gguf", write_gguf, llama3_factors)).config
    assert (config.norm_eps, config.rope_theta, config.max_positions) == (1e-6, 500000.0, 131072)
    assert (config.vocab_size, config.known_vocab_size, config.tied_head) == (272, 262, True)
    assert config.rope_scaling == RopeScaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )


def test_refuses_other_rotary_factors(foreign, write_gguf, tmp_path, refused):
    extra = {"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}
    file = write_gguf(tmp_path / "m.gguf", foreign("llama"), extra=extra)
    assert "tensor 'rope_freqs.weight' is not Llama 3's scaling" in refused(file)


def test_refuses_rotary_factors_of_another_width(foreign, write_gguf, llama3_factors, tmp_path, refused):
    extra = {"rope_freqs.weight": llama3_factors(32, 500000.0)}
    file = write_gguf(tmp_path / "m.gguf", foreign("llama"), extra=extra)
    assert "tensor 'rope_freqs.weight' is not Llama 3's scaling" in refused(file)


def test_rotary_factors_of_a_family_that_has_none_have_no_place(foreign, write_gguf, tmp_path, refused):
    extra = {"rope_freqs.weight": np.ones(16, np.float32)}
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen3"), extra=extra)
    assert "tensor 'rope_freqs.weight' has no place in a qwen3 model" in refused(file)


@pytest.mark.parametrize("fields", [
    {},  # base 500000 and context 131072: beyond Llama 3's 8192
    {"general.name": "Meta Llama 3.1 8B Instruct", "llama.context_length": 8192},
    {"general.basename": "Llama-3.2", "llama.rope.freq_base": 10000.0},
    {"general.base_model.0.name": "Llama 3.3 70B Instruct", "llama.context_length": 4096},
])  # fmt: skip
def test_refuses_a_llama_whose_scaling_was_dropped(fields, foreign, write_gguf, tmp_path, refused):
    file = write_gguf(tmp_path / "m.gguf", foreign("llama"), fields=fields)
    message = refused(file)
    assert "needs Llama 3's rotary scaling, and tensor 'rope_freqs.weight' is missing" in message
    assert "convert it by a newer llama.cpp" in message


@pytest.mark.parametrize("fields", [
    {"general.name": "Meta-Llama-3-8B-Instruct", "llama.context_length": 8192},
    {"general.name": "SmolLM2 135M", "llama.rope.freq_base": 100000.0},
])  # fmt: skip
def test_a_llama_that_was_trained_without_scaling_has_none(fields, foreign, write_gguf, tmp_path):
    assert open_source(write_gguf(tmp_path / "m.gguf", foreign("llama"), fields=fields)).config.rope_scaling is None


def test_refuses_a_truncated_file(foreign, write_gguf, tmp_path, refused):
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen3"))
    content = file.read_bytes()
    file.write_bytes(content[:-5000])
    assert "tensor 'blk.1.ffn_down.weight' is truncated" in refused(file)
    file.write_bytes(content[:200])
    assert "not a whole GGUF file" in refused(file)
    file.write_bytes(b"GG")
    assert "not a whole GGUF file" in refused(file)
    file.write_bytes(b"")
    assert "not a whole GGUF file" in refused(file)


def test_refuses_missing_extra_and_mis_shaped_tensors(foreign, write_gguf, tmp_path, refused):
    missing, misshaped = foreign("qwen3"), foreign("qwen3")
    del missing.tensors["model.layers.0.self_attn.q_norm.weight"]
    misshaped.tensors["model.layers.0.mlp.gate_proj.weight"] = np.zeros((8, 64), np.float32)
    file = write_gguf(tmp_path / "missing.gguf", missing)
    assert "tensor 'blk.0.attn_q_norm.weight' is missing" in refused(file)
    file = write_gguf(tmp_path / "extra.gguf", foreign("qwen3"), extra={"blk.2.attn_q.weight": np.zeros((1, 1), "f4")})
    assert "tensor 'blk.2.attn_q.weight' has no place in a qwen3 model" in refused(file)
    file = write_gguf(tmp_path / "misshaped.gguf", misshaped)
    assert "tensor 'blk.0.ffn_gate.weight' has shape (8, 64), its config says (256, 64)" in refused(file)


def test_refuses_types_it_cannot_read(foreign, write_gguf, tmp_path, refused):
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen3"), kind="Q5_0")
    assert "'token_embd.weight' has type Q5_0; readable: F32" in refused(file)


@pytest.mark.parametrize(("fields", "expected"), [
    ({"qwen2.rope.scaling.type": "yarn"}, "qwen2.rope.scaling.type = 'yarn' is not supported"),
    ({"qwen2.rope.dimension_count": 8}, "qwen2.rope.dimension_count = 8 is not supported"),
    ({"qwen2.attention.sliding_window": 512}, "qwen2.attention.sliding_window = 512 is not supported"),
    ({"qwen2.expert_count": 8}, "qwen2.expert_count = 8 is not supported"),
    ({"qwen2.rope.scaling.type": "linear", "qwen2.rope.scaling.factor": 2.0}, "scaling.type = 'linear' is not"),
    ({"qwen2.rope.scale_linear": 2.0}, "qwen2.rope.scale_linear = 2.0 is not supported"),
    ({"qwen2.attention.head_count": "4"}, "head_count = '4' must be a whole number, at least 1"),
    ({"qwen2.attention.head_count": 0}, "head_count = 0 must be a whole number, at least 1"),
    ({"tokenizer.ggml.bos_token_id": 300}, "bos_token_id = 300 must lie within the vocabulary's 0..271"),
    ({"tokenizer.ggml.eos_token_id": 271}, "eos_token_id = 271 must lie within the vocabulary's 0..261"),
    ({"tokenizer.ggml.eot_token_id": "261"}, "eot_token_id = '261' must be a token id"),
])  # fmt: skip
def test_refuses_fields_that_mean_another_computation(fields, expected, foreign, write_gguf, tmp_path, refused):
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen2"), fields=fields)
    assert expected in refused(file)


@pytest.mark.parametrize("fields", [
    {"qwen2.rope.scaling.type": "none"},
    {"qwen2.rope.scaling.type": "linear", "qwen2.rope.scaling.factor": 1.0},
    {"qwen2.attention.sliding_window": 131072},
    {"qwen2.attention.sliding_window": 0},
])  # fmt: skip
def test_fields_that_change_nothing_are_accepted(fields, foreign, write_gguf, tmp_path):
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen2"), fields=fields)
    assert open_source(file).config == open_source(write_gguf(tmp_path / "plain.gguf", foreign("qwen2"))).config


def test_refuses_an_unknown_architecture(tmp_path, refused):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "architecture 'mamba' is not supported; known: llama" in refused(tmp_path / "m.gguf")


def test_refuses_an_unknown_tokenizer(foreign, write_gguf, tmp_path, refused):
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen3"), pre="deepseek-coder")
    assert "pre-tokenizer 'deepseek-coder' is not supported" in refused(file)


def test_refuses_a_tokenizer_that_does_not_say_how_it_splits(foreign, write_gguf, tmp_path, refused):
    message = refused(write_gguf(tmp_path / "m.gguf", foreign("qwen3"), pre=None))
    assert "tokenizer.ggml.pre is missing" in message
    assert "convert it by a newer llama.cpp" in message


@pytest.mark.parametrize(("pre", "pieces"), [
    ("gpt-2", ["a", "12", "12", "Ċ", "t", "e", "a"]),  # the merge "12" applies inside a run of digits
    ("smollm", ["a", "1", "2", "1", "2", "Ċ", "t", "e", "a"]),  # digits stand alone
    ("qwen2", ["a", "1", "2", "1", "2", "Ċ", "t", "e", "a"]),
    ("deepseek-r1-qwen", ["a", "1", "2", "1", "2", "Ċ", "t", "e", "a"]),
    ("llama-bpe", ["a", "12", "1", "2", "Ċ", "tea"]),  # digits by three; a word of the vocabulary needs no merges
    ("llama-v3", ["a", "12", "1", "2", "Ċ", "tea"]),
    ("llama3", ["a", "12", "1", "2", "Ċ", "tea"]),
    ("default", ["a", "12", "1", "2", "Ċ", "t", "e", "a"]),  # digits by three
])  # fmt: skip
def test_pre_tokenizers(pre, pieces, foreign, write_gguf, tmp_path):
    spec = open_source(write_gguf(tmp_path / "m.gguf", foreign("qwen3"), pre=pre)).tokenizer
    tokenizer = Tokenizer(spec)
    ids = tokenizer.encode("a1212\ntea")
    names = {i: token for token, i in tokenizer.vocabulary.items()}
    assert [names[i] for i in ids] == pieces


@pytest.mark.parametrize(("pre", "text", "words"), [
    ("default", "a+=b 1234x", ["a", "+=", "b", "Ġ", "123", "4", "x"]),  # signs apart from a space, then digits by three
    ("qwen2", "a +=\n\nb'LL 12", ["a", "Ġ+=ĊĊ", "b", "'LL", "Ġ", "1", "2"]),
    ("llama-bpe", "a +=\n\nb'LL 1234", ["a", "Ġ+=ĊĊ", "b", "'LL", "Ġ", "123", "4"]),
    ("gpt-2", "a +=\n\nb'll 12", ["a", "Ġ+=", "Ċ", "Ċ", "b", "'ll", "Ġ12"]),
    ("smollm", "a += 12", ["a", "Ġ+=", "Ġ", "1", "2"]),
])  # fmt: skip
def test_words_of_the_pre_tokenizers(pre, text, words):
    steps = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]}
    splitter = tokenizers.pre_tokenizers.Sequence([])
    splitter.__setstate__(json.dumps(steps).encode())
    assert [word for word, _ in splitter.pre_tokenize_str(text)] == words
