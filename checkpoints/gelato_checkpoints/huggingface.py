"""Hugging Face folders: config.json, safetensors (one file or an index of many), tokenizer.json.

Source: the configuration classes of transformers (LlamaConfig, Qwen2Config, Qwen3Config) and its
`modeling_rope_utils.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gelato_checkpoints.base import CheckpointError, Source, SourceTensor
from gelato_checkpoints.fields import Fields, read_json
from gelato_checkpoints.huggingface_tokenizer import read_tokenizer
from gelato_checkpoints.safetensors_files import NOT_PARAMETERS, open_weights
from gelato_jax.config import ModelConfig, RopeScaling
from gelato_jax.errors import GelatoError

Family = Literal["llama", "qwen2", "qwen3"]

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture in config.json -> family."""

# What the families' configuration classes take where config.json says nothing.
_DEFAULT_ROPE_THETA = 10000.0
_DEFAULT_HEAD_DIM = {"qwen3": 128}  # the others divide the hidden size by the heads

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_FULL = "full_attention"


def open_huggingface(folder: Path) -> Source:
    """Open a Hugging Face folder without reading its tensors.

    Args:
        folder: holds config.json, the weights as safetensors, and tokenizer.json.

    Raises:
        CheckpointError: something is missing, unreadable or not supported.
    """
    fields = Fields(read_json(folder / "config.json"), folder / "config.json")
    config = parse_config(fields)
    tensors = open_weights(folder)
    ignored = {name: "derived from the config" for name in tensors if NOT_PARAMETERS.search(name)}
    _check_head(tensors, config, fields.path)
    if config.tied_head and _HEAD in tensors:
        ignored[_HEAD] = "equal to the embedding"
    files = {tensor.file for tensor in tensors.values()} | set(folder.glob("*.json")) | set(folder.glob("*.jinja"))
    return Source(
        format="huggingface",
        config=config,
        tensors={name: tensor for name, tensor in tensors.items() if name not in ignored},
        tokenizer=read_tokenizer(folder, fields),
        files=(fields.path, *sorted(files - {fields.path})),
        ignored=ignored,
    )


def parse_config(fields: Fields) -> ModelConfig:
    """Turn the fields of a config.json into a ModelConfig.

    Raises:
        CheckpointError: an architecture or an option that the models here do not have, or a field of a wrong type.
    """
    family = _family(fields)
    _refuse_variants(fields, family)
    theta, scaling = _rope(fields)
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    values = {
        "family": family,
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": hidden,
        "mlp_size": fields.integer("intermediate_size"),
        "num_layers": fields.integer("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": fields.integer("num_key_value_heads", heads),
        "head_dim": fields.integer("head_dim", _DEFAULT_HEAD_DIM.get(family, hidden // heads)),
        "rope_theta": theta,
        "norm_eps": fields.decimal("rms_norm_eps"),
        "max_positions": fields.integer("max_position_embeddings"),
        "rope_scaling": scaling,
        "qkv_bias": family == "qwen2",
        "qk_norm": family == "qwen3",
        "tied_head": fields.flag("tie_word_embeddings"),
    }
    try:
        return ModelConfig(**values)
    except GelatoError as error:
        raise CheckpointError(f"{fields.path}: {error}") from None


def _family(fields: Fields) -> Family:
    """The family of the first architecture, if it is one of ours."""
    names = fields.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{fields.path}: architecture {name!r} is not supported; known: {known}")
    return FAMILIES[name]


def _refuse_variants(fields: Fields, family: Family) -> None:
    """Refuse options under which the same tensors would mean another computation."""
    refused = {
        "layer_types": _is_mixed(fields),
        "sliding_window": _is_windowed(fields, family),
        "attention_bias": fields.flag("attention_bias") and family != "qwen2",
        "mlp_bias": fields.flag("mlp_bias"),
        "quantization_config": fields.mapping("quantization_config"),
        "hidden_act": fields.text("hidden_act", "silu") not in ("silu", "swish"),
        "pretraining_tp": fields.integer("pretraining_tp", 1) != 1,
        "partial_rotary_factor": fields.decimal("partial_rotary_factor", 1.0) != 1.0,
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise fields.refuse(name, "is not supported; choose a model without it")


def _is_mixed(fields: Fields) -> bool:
    """Whether a layer attends otherwise than fully; one whose window holds the whole context does attend fully."""
    types = fields.values.get("layer_types") or []
    if not isinstance(types, list) or not all(isinstance(kind, str) for kind in types):
        raise fields.refuse("layer_types", "must be a list of strings")
    full = {_FULL, "sliding_attention"} if _window_holds_all(fields) else {_FULL}
    return not full.issuperset(types)


def _is_windowed(fields: Fields, family: Family) -> bool:
    """Whether some layer sees a part of the context only, as far as `layer_types` does not say."""
    if not fields.flag("use_sliding_window", family == "llama") or "layer_types" in fields:
        return False
    # Qwen's first layers look at everything. Where their number is not said, it may be none.
    if family != "llama" and fields.integer("max_window_layers", 0, low=0) >= fields.integer("num_hidden_layers"):
        return False
    return fields.integer("sliding_window", None, low=0) is not None and not _window_holds_all(fields)


def _window_holds_all(fields: Fields) -> bool:
    """Whether there is a sliding window, and it is as long as the context."""
    return fields.integer("sliding_window", 0, low=0) >= fields.integer("max_position_embeddings")


def _rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling; newer configs keep both in `rope_parameters`, older ones in two fields."""
    rope = _rope_fields(fields)
    theta = rope.decimal("rope_theta", fields.decimal("rope_theta", _DEFAULT_ROPE_THETA))
    kind = rope.text("rope_type", rope.text("type", "default"))
    if rope.decimal("partial_rotary_factor", 1.0) != 1.0:
        raise rope.refuse("partial_rotary_factor", "is not supported; choose a model without it")
    if kind == "default" or (kind == "linear" and rope.decimal("factor") == 1.0):
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"{fields.path}: rope type {kind!r} is not supported; known: default, llama3")
    values = {
        "factor": rope.decimal("factor"),
        "low_freq_factor": rope.decimal("low_freq_factor"),
        "high_freq_factor": rope.decimal("high_freq_factor"),
        "original_max_positions": rope.integer("original_max_position_embeddings"),
    }
    try:
        return theta, RopeScaling(**values)
    except GelatoError as error:
        raise CheckpointError(f"{fields.path}: {error}") from None


def _rope_fields(fields: Fields) -> Fields:
    """`rope_scaling` and `rope_parameters` as one record, which must not contradict each other."""
    merged: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        for key, value in _of_full_attention(fields, name).items():
            if merged.setdefault(key, value) != value:
                raise fields.refuse(name, f"and rope_scaling differ in {key}; remove the one that is not meant")
    return Fields(merged, fields.path, label="rope field")


def _of_full_attention(fields: Fields, name: str) -> Mapping[str, Any]:
    """Rotary parameters; where they are nested by attention type, those of the only type there is here."""
    values = fields.mapping(name)
    if not any(isinstance(value, Mapping) for value in values.values()):
        return values
    if _FULL not in values:
        raise fields.refuse(name, f"has no {_FULL!r}, the only attention that is supported; choose another model")
    return Fields(values, fields.path, label=name).mapping(_FULL)


def _check_head(tensors: Mapping[str, SourceTensor], config: ModelConfig, path: Path) -> None:
    """Refuse a head that the config would drop, and a config that wants a head where there is none."""
    head, embedding = tensors.get(_HEAD), tensors.get(_EMBEDDING)
    if not config.tied_head and head is None:
        raise CheckpointError(
            f"{path}: tie_word_embeddings is false and the weights have no tensor {_HEAD!r}; set it to true if the "
            "embedding is the head, else download the weights again"
        )
    if not config.tied_head or head is None or embedding is None:
        return
    if head.shape != embedding.shape or not np.array_equal(head.read(), embedding.read()):
        raise CheckpointError(
            f"{head.file}: tensor {_HEAD!r} differs from the embedding although config.json has "
            "tie_word_embeddings = true; set it to false if the head is meant"
        )
