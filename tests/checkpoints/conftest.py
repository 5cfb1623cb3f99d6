"""Tiny random checkpoints in foreign formats, written by code that shares nothing with the readers."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gelato_checkpoints import CheckpointError, convert, load_checkpoint, resolve

# A row of the down projection, MLP values, is one super-block of a K-quant.
VOCAB, HIDDEN, MLP, LAYERS, HEADS, KV_HEADS = 272, 64, 256, 2, 4, 2
HEAD_DIM = {"llama": 16, "qwen2": 16, "qwen3": 32}  # Qwen3: HEADS * HEAD_DIM is not HIDDEN
ARCHITECTURE = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass
class Foreign:
    """A checkpoint as Hugging Face names it, before it is written."""

    family: str
    config: dict
    tensors: dict[str, np.ndarray]
    shards: list[list[str]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write a Hugging Face folder; with `shards`, several files and their index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer.json").write_text(byte_tokenizer().to_str())
        settings = {"chat_template": CHAT_TEMPLATE, "eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [259]}))
        if not self.shards:
            save_file(self.tensors, folder / "model.safetensors")
            return folder
        weight_map = {}
        for number, names in enumerate(self.shards):
            name = f"model-{number}.safetensors"
            save_file({key: self.tensors[key] for key in names}, folder / name)
            weight_map |= dict.fromkeys(names, name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder


def byte_tokenizer() -> Tokenizer:
    """All 256 bytes, two merges, a word that no merge reaches, three special tokens: 262 ids of the model's 272."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"12": 256, "he": 257, "tea": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("1", "2"), ("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def foreign(family: str, seed: int = 0) -> Foreign:
    """A random model; llama is tied and scaled, qwen2 untied with biases, qwen3 tied with head norms."""
    rng = np.random.default_rng(seed)
    width = HEAD_DIM[family]
    q, kv, tied = HEADS * width, KV_HEADS * width, family != "qwen2"
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.{n}.weight": (HIDDEN,) for n in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{layer}.self_attn.q_proj.weight": (q, HIDDEN), f"{layer}.self_attn.o_proj.weight": (HIDDEN, q)}
        shapes |= {f"{layer}.self_attn.{n}_proj.weight": (kv, HIDDEN) for n in "kv"}
        shapes |= {f"{layer}.mlp.{n}_proj.weight": (MLP, HIDDEN) for n in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, MLP)
        if family == "qwen2":
            shapes |= {f"{layer}.self_attn.{n}_proj.bias": (size,) for n, size in (("q", q), ("k", kv), ("v", kv))}
        if family == "qwen3":
            shapes |= {f"{layer}.self_attn.{n}_norm.weight": (width,) for n in "qk"}
    config = {
        "architectures": [ARCHITECTURE[family]],
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": tied,
        "eos_token_id": 260,
    }
    if family == "llama":
        config["rope_scaling"] = LLAMA3_SCALING
    if family == "qwen3":
        config["head_dim"] = width
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return Foreign(family, config, tensors)


# llama.cpp's names, written out: the readers' own table is what is under test.
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[rest]}.{kind}"
    return f"{GGUF_NAMES[stem]}.{kind}"


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's row order for q and k, as its converter writes it."""
    split = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return split.swapaxes(1, 2).reshape(weights.shape)


def write_gguf(
    path: Path, model: Foreign, *, kind: str = "F32", pre: str | None = "gpt-2", fields=None, extra=None, raw=None
) -> Path:
    """Write a GGUF file; matrices are stored as `kind`, vectors in float32.

    `fields` are added or replaced, `extra` tensors added; `raw` replaces a tensor by the bytes [rows, bytes] of a
    quantised type.
    """
    family, width = model.family, HEAD_DIM[model.family]
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(LAYERS)
    writer.add_context_length(model.config["max_position_embeddings"])
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(model.config["rms_norm_eps"])
    writer.add_rope_freq_base(model.config["rope_theta"])
    write_gguf_tokenizer(writer, pre)
    add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
    for key, value in (fields or {}).items():
        writer.kv_data[0].pop(key, None)
        add[type(value)](key, value)
    quantized = gguf.GGMLQuantizationType[kind]
    for name, tensor in model.tensors.items():
        if family == "llama" and (".q_proj." in name or ".k_proj." in name):
            tensor = permute(tensor, HEADS if ".q_proj." in name else KV_HEADS)
        if gguf_name(name) in (raw or {}):
            rows, raw_kind = raw[gguf_name(name)]
            writer.add_tensor(gguf_name(name), rows, raw_dtype=gguf.GGMLQuantizationType[raw_kind])
        elif tensor.ndim == 1 or kind == "F32":
            writer.add_tensor(gguf_name(name), tensor)
        else:
            writer.add_tensor(gguf_name(name), quantize(tensor, quantized), raw_dtype=quantized)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_gguf_tokenizer(writer: gguf.GGUFWriter, pre: str | None) -> None:
    vocabulary = sorted(byte_tokenizer().get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    padding = VOCAB - len(tokens)
    types = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in range(padding)])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * padding)
    writer.add_token_merges(["1 2", "h e"])
    writer.add_bos_token_id(259)
    writer.add_eos_token_id(260)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def llama3_factors(width: int, theta: float) -> np.ndarray:
    """`rope_freqs.weight` as llama.cpp's converter computes it, one frequency at a time."""
    factors = []
    for j in range(0, width, 2):
        wavelength = 2 * np.pi * theta ** (j / width)
        if wavelength < 8192 / 4.0:
            factors.append(1.0)
        elif wavelength > 8192 / 1.0:
            factors.append(32.0)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / 32.0 + smooth))
    return np.array(factors, np.float32)


@pytest.fixture(name="foreign", scope="session")
def foreign_fixture():
    return foreign


@pytest.fixture(name="write_gguf")
def write_gguf_fixture():
    return write_gguf


@pytest.fixture(name="llama3_factors")
def llama3_factors_fixture():
    return llama3_factors


@pytest.fixture
def refused(tmp_path):
    """A call that converts a source, wants a refusal in one line that leaves nothing behind, and returns it."""

    def convert_and_read_the_error(source: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            convert(source, tmp_path / "ours")
        assert not list(tmp_path.glob("*ours*"))
        message = str(caught.value)
        assert "\n" not in message
        assert str(source) in message
        return message

    return convert_and_read_the_error


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache directory of this test's own."""
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def smollm2():
    """The default model, fetched when it is not in the cache; without a network this fails, it does not skip."""
    return load_checkpoint(resolve("smollm2-135m"))
