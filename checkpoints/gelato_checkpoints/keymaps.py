"""Key maps: which source tensor becomes which parameter, as data, and the converter that follows them.

A `Rule` names a source tensor, its shape and its place in the parameter tree. Rules with one target are the parts of a
fused parameter, joined along the last axis in the order of the table (q, k, v; gate, up). Shapes are
written in letters:

    V vocab_size   D hidden_size   F mlp_size   H head_dim   Q num_heads * head_dim   K num_kv_heads * head_dim
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gelato_checkpoints.base import CheckpointError, OnProgress, Source, SourceTensor, silent
from gelato_jax.config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """One line of a key map.

    Attributes:
        source: name in the source; `{i}` stands for the layer.
        target: path in the parameter tree; `{i}` stands for the layer.
        shape: letters of the source shape.
        transform: a key of `TRANSFORMS`.
        when: a condition of `CONDITIONS` under which the tensor exists.
    """

    source: str
    target: str
    shape: str
    transform: str = "keep"
    when: str = "always"


CONDITIONS: dict[str, Callable[[ModelConfig], bool]] = {
    "always": lambda config: True,
    "qkv_bias": lambda config: config.qkv_bias,
    "qk_norm": lambda config: config.qk_norm,
    "untied": lambda config: not config.tied_head,
}


def _half_split_rows(array: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Undo the row order of a GGUF file of the Llama family.

    llama.cpp stores the rows of q and k so that a rotated pair is (2j, 2j + 1); the half-split form wants (j, j + H/2).
    Reference: `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py, inverted.
    """
    half = config.head_dim // 2
    return array.reshape(-1, half, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


TRANSFORMS: dict[str, Callable[[np.ndarray, ModelConfig], np.ndarray]] = {
    "keep": lambda array, config: array,
    "transpose": lambda array, config: array.T,
    "unpermute": _half_split_rows,
    "unpermute_transpose": lambda array, config: _half_split_rows(array, config).T,
}

HUGGINGFACE: tuple[Rule, ...] = (
    Rule("model.embed_tokens.weight", "embed.embedding", "VD"),
    Rule("model.layers.{i}.input_layernorm.weight", "layers.{i}.input_norm.scale", "D"),
    Rule("model.layers.{i}.self_attn.q_proj.weight", "layers.{i}.attention.qkv.kernel", "QD", "transpose"),
    Rule("model.layers.{i}.self_attn.k_proj.weight", "layers.{i}.attention.qkv.kernel", "KD", "transpose"),
    Rule("model.layers.{i}.self_attn.v_proj.weight", "layers.{i}.attention.qkv.kernel", "KD", "transpose"),
    Rule("model.layers.{i}.self_attn.q_proj.bias", "layers.{i}.attention.qkv.bias", "Q", when="qkv_bias"),
    Rule("model.layers.{i}.self_attn.k_proj.bias", "layers.{i}.attention.qkv.bias", "K", when="qkv_bias"),
    Rule("model.layers.{i}.self_attn.v_proj.bias", "layers.{i}.attention.qkv.bias", "K", when="qkv_bias"),
    Rule("model.layers.{i}.self_attn.q_norm.weight", "layers.{i}.attention.q_norm.scale", "H", when="qk_norm"),
    Rule("model.layers.{i}.self_attn.k_norm.weight", "layers.{i}.attention.k_norm.scale", "H", when="qk_norm"),
    Rule("model.layers.{i}.self_attn.o_proj.weight", "layers.{i}.attention.out.kernel", "DQ", "transpose"),
    Rule("model.layers.{i}.post_attention_layernorm.weight", "layers.{i}.mlp_norm.scale", "D"),
    Rule("model.layers.{i}.mlp.gate_proj.weight", "layers.{i}.mlp.gate_up.kernel", "FD", "transpose"),
    Rule("model.layers.{i}.mlp.up_proj.weight", "layers.{i}.mlp.gate_up.kernel", "FD", "transpose"),
    Rule("model.layers.{i}.mlp.down_proj.weight", "layers.{i}.mlp.down.kernel", "DF", "transpose"),
    Rule("model.norm.weight", "norm.scale", "D"),
    Rule("lm_head.weight", "head.kernel", "VD", when="untied"),
)

GGUF: tuple[Rule, ...] = (
    Rule("token_embd.weight", "embed.embedding", "VD"),
    Rule("blk.{i}.attn_norm.weight", "layers.{i}.input_norm.scale", "D"),
    Rule("blk.{i}.attn_q.weight", "layers.{i}.attention.qkv.kernel", "QD", "transpose"),
    Rule("blk.{i}.attn_k.weight", "layers.{i}.attention.qkv.kernel", "KD", "transpose"),
    Rule("blk.{i}.attn_v.weight", "layers.{i}.attention.qkv.kernel", "KD", "transpose"),
    Rule("blk.{i}.attn_q.bias", "layers.{i}.attention.qkv.bias", "Q", when="qkv_bias"),
    Rule("blk.{i}.attn_k.bias", "layers.{i}.attention.qkv.bias", "K", when="qkv_bias"),
    Rule("blk.{i}.attn_v.bias", "layers.{i}.attention.qkv.bias", "K", when="qkv_bias"),
    Rule("blk.{i}.attn_q_norm.weight", "layers.{i}.attention.q_norm.scale", "H", when="qk_norm"),
    Rule("blk.{i}.attn_k_norm.weight", "layers.{i}.attention.k_norm.scale", "H", when="qk_norm"),
    Rule("blk.{i}.attn_output.weight", "layers.{i}.attention.out.kernel", "DQ", "transpose"),
    Rule("blk.{i}.ffn_norm.weight", "layers.{i}.mlp_norm.scale", "D"),
    Rule("blk.{i}.ffn_gate.weight", "layers.{i}.mlp.gate_up.kernel", "FD", "transpose"),
    Rule("blk.{i}.ffn_up.weight", "layers.{i}.mlp.gate_up.kernel", "FD", "transpose"),
    Rule("blk.{i}.ffn_down.weight", "layers.{i}.mlp.down.kernel", "DF", "transpose"),
    Rule("output_norm.weight", "norm.scale", "D"),
    Rule("output.weight", "head.kernel", "VD", when="untied"),
)

# Only llama.cpp's Llama family stores q and k for interleaved rotary embedding.
_INTERLEAVED = {
    "blk.{i}.attn_q.weight": "unpermute_transpose",
    "blk.{i}.attn_k.weight": "unpermute_transpose",
    "blk.{i}.attn_q.bias": "unpermute",
    "blk.{i}.attn_k.bias": "unpermute",
}
GGUF_LLAMA: tuple[Rule, ...] = tuple(
    Rule(rule.source, rule.target, rule.shape, _INTERLEAVED.get(rule.source, rule.transform), rule.when)
    for rule in GGUF
)

KEY_MAPS: dict[tuple[str, str], tuple[Rule, ...]] = {
    ("huggingface", "llama"): HUGGINGFACE,
    ("huggingface", "qwen2"): HUGGINGFACE,
    ("huggingface", "qwen3"): HUGGINGFACE,
    ("gguf", "llama"): GGUF_LLAMA,
    ("gguf", "qwen2"): GGUF,
    ("gguf", "qwen3"): GGUF,
}


def _expand(rules: tuple[Rule, ...], config: ModelConfig) -> Iterator[Rule]:
    """Write the rules out for every layer that `config` has."""
    for rule in rules:
        if not CONDITIONS[rule.when](config):
            continue
        for i in range(config.num_layers) if "{i}" in rule.source else (0,):
            yield Rule(rule.source.format(i=i), rule.target.format(i=i), rule.shape, rule.transform, rule.when)


def _sizes(config: ModelConfig) -> dict[str, int]:
    """The letters of a rule's shape as numbers."""
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "F": config.mlp_size,
        "H": config.head_dim,
        "Q": config.num_heads * config.head_dim,
        "K": config.num_kv_heads * config.head_dim,
    }


def _check(source: Source, rules: list[Rule]) -> None:
    """Refuse a source whose tensors are not exactly those of the rules, shape by shape."""
    sizes = _sizes(source.config)
    weights = {tensor.file for tensor in source.tensors.values()} or set(source.files)
    where = next(iter(weights)) if len(weights) == 1 else next(iter(weights)).parent
    for rule in rules:
        if rule.source not in source.tensors:
            raise CheckpointError(
                f"{where}: tensor {rule.source!r} is missing; the file is incomplete or its config describes another "
                "model: download it again"
            )
        tensor, expected = source.tensors[rule.source], tuple(sizes[letter] for letter in rule.shape)
        if tensor.shape != expected:
            raise CheckpointError(
                f"{tensor.file}: tensor {rule.source!r} has shape {tensor.shape}, its config says {expected}; use the "
                "config that belongs to these weights"
            )
    unmapped = sorted(source.tensors.keys() - {rule.source for rule in rules})
    if unmapped:
        raise CheckpointError(
            f"{source.tensors[unmapped[0]].file}: tensor {unmapped[0]!r} has no place in a {source.config.family} model"
            f" ({len(unmapped)} such tensors); this variant is not supported"
        )


def convert_tensors(source: Source, dtype: np.dtype, progress: OnProgress = silent) -> dict[str, np.ndarray]:
    """Read every tensor of `source` and arrange them as the model's parameters.

    Args:
        source: an opened checkpoint.
        dtype: type of the result, float32 or bfloat16.
        progress: told of every parameter finished.

    Returns:
        Parameter path -> array, the paths and shapes of `gelato_jax.models.parameter_shapes`.

    Raises:
        CheckpointError: a tensor is missing, unmapped, mis-shaped or not finite.
    """
    rules = list(_expand(KEY_MAPS[source.format, source.config.family], source.config))
    _check(source, rules)
    targets: dict[str, list[Rule]] = {}
    for rule in rules:
        targets.setdefault(rule.target, []).append(rule)
    parameters = {}
    for done, (path, parts) in enumerate(targets.items()):
        progress("convert", done, len(targets))
        parameters[path] = _assemble(source, parts, dtype)
    progress("convert", len(targets), len(targets))
    return parameters


def export_tensors(config: ModelConfig, parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A model's parameters under Hugging Face's names: `convert_tensors` of such a source, backwards.

    Args:
        config: the model, its weights in floats.
        parameters: path -> array, as `gelato_jax.models.parameter_shapes` lists them.

    Returns:
        Name -> array, views where that can be; a tied head stands under its own name too.
    """
    tensors, used, sizes = {}, dict.fromkeys(parameters, 0), _sizes(config)
    for rule in _expand(KEY_MAPS["huggingface", config.family], config):
        turned, array = rule.transform == "transpose", parameters[rule.target]
        start, width = used[rule.target], sizes[rule.shape[0] if turned else rule.shape[-1]]
        used[rule.target] = start + width
        part = array[..., start : start + width]
        tensors[rule.source] = part.T if turned else part
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    return tensors


def _assemble(source: Source, parts: list[Rule], dtype: np.dtype) -> np.ndarray:
    """Read the parts of one parameter and join them along the last axis."""
    arrays = [TRANSFORMS[rule.transform](_read(source.tensors[rule.source], dtype), source.config) for rule in parts]
    return np.ascontiguousarray(np.concatenate(arrays, axis=-1))


def _read(tensor: SourceTensor, dtype: np.dtype) -> np.ndarray:
    """Read one tensor as `dtype`; refuse infinities and NaNs, which no trained weight holds."""
    array = tensor.read()
    if not np.isfinite(array).all():
        raise CheckpointError(f"{tensor.file}: tensor {tensor.name!r} holds values that are not finite; download again")
    return array.astype(dtype, copy=False)
