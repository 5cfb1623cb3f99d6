"""Hugging Face folders: config.json, safetensors (one file or an index of many), tokenizer.json.

Pickle files are never read. Sources: the configuration classes of transformers (LlamaConfig, Qwen2Config, Qwen3Config)
and the safetensors format description.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gelato_checkpoints.base import CheckpointError, Source, SourceTensor, TokenizerSpec
from gelato_jax.config import ModelConfig, RopeScaling

Family = Literal["llama", "qwen2", "qwen3"]

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture in config.json -> family."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_FLOATS = ("F32", "F16", "BF16")

# Buffers that old releases of transformers saved beside the parameters; all follow from the config.
_NOT_PARAMETERS = re.compile(r"\.(rotary_emb\.inv_freq|self_attn\.masked_bias|attn\.bias)$")

# The default base of LlamaConfig, Qwen2Config and Qwen3Config where config.json names none.
_DEFAULT_ROPE_THETA = 10000.0


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, cut short or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the folder is not a complete checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}, expected a JSON object")
    return value


def open_huggingface(folder: Path) -> Source:
    """Open a Hugging Face folder without reading its tensors.

    Args:
        folder: holds config.json, *.safetensors and tokenizer.json.

    Raises:
        CheckpointError: something is missing, unreadable or not supported.
    """
    raw = read_json(folder / "config.json")
    config = parse_config(raw, folder / "config.json")
    tensors = _open_weights(folder)
    ignored = {name: "derived from the config" for name in tensors if _NOT_PARAMETERS.search(name)}
    if config.tied_head and "lm_head.weight" in tensors:
        _check_tied(tensors)
        ignored["lm_head.weight"] = "equal to the embedding"
    files = {tensor.file for tensor in tensors.values()} | set(folder.glob("*.json")) | set(folder.glob("*.jinja"))
    return Source(
        format="huggingface",
        config=config,
        tensors={name: tensor for name, tensor in tensors.items() if name not in ignored},
        tokenizer=read_tokenizer(folder, raw),
        files=(folder / "config.json", *sorted(files - {folder / "config.json"})),
        ignored=ignored,
    )


def parse_config(raw: Mapping[str, Any], path: Path) -> ModelConfig:
    """Turn the fields of a config.json into a ModelConfig.

    Args:
        raw: the fields.
        path: where they come from, for messages.

    Raises:
        CheckpointError: an architecture or an option that the models here do not have.
    """
    architecture = (raw.get("architectures") or ["(none)"])[0]
    if architecture not in FAMILIES:
        raise CheckpointError(f"{path}: architecture {architecture!r} is not supported; known: {', '.join(FAMILIES)}")
    family = FAMILIES[architecture]
    _refuse_variants(raw, family, path)
    theta, scaling = _rope(raw, path)
    try:
        heads = int(raw["num_attention_heads"])
        return ModelConfig(
            family=family,
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            mlp_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
            rope_theta=theta,
            norm_eps=float(raw["rms_norm_eps"]),
            max_positions=int(raw["max_position_embeddings"]),
            rope_scaling=scaling,
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            tied_head=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: field {error} is missing; download it again") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _refuse_variants(raw: Mapping[str, Any], family: str, path: Path) -> None:
    """Refuse options under which the same tensors would mean another computation."""
    windowed = raw.get("use_sliding_window", family == "llama") and raw.get("sliding_window")
    windowed = windowed or "sliding_attention" in (raw.get("layer_types") or ())
    refused = {
        "sliding_window": windowed,
        "attention_bias": raw.get("attention_bias") and family != "qwen2",
        "mlp_bias": raw.get("mlp_bias"),
        "quantization_config": raw.get("quantization_config"),
        "hidden_act": raw.get("hidden_act", "silu") not in ("silu", "swish"),
        "pretraining_tp": raw.get("pretraining_tp", 1) != 1,
        "partial_rotary_factor": (raw.get("partial_rotary_factor") or 1.0) != 1.0,
    }
    for name, found in refused.items():
        if found:
            raise CheckpointError(f"{path}: {name} = {raw.get(name)!r} is not supported; choose a model without it")


def _rope(raw: Mapping[str, Any], path: Path) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling; newer configs keep both in `rope_parameters`, older ones in two fields."""
    fields = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = float(fields.get("rope_theta") or raw.get("rope_theta") or _DEFAULT_ROPE_THETA)
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"{path}: rope type {kind!r} is not supported; known: default, llama3")
    try:
        return theta, RopeScaling(
            factor=float(fields["factor"]),
            low_freq_factor=float(fields["low_freq_factor"]),
            high_freq_factor=float(fields["high_freq_factor"]),
            original_max_positions=int(fields["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: rope field {error} is missing; download it again") from None


def _open_weights(folder: Path) -> dict[str, SourceTensor]:
    """List the tensors of every safetensors file that the folder's index, or the folder itself, names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map: dict[str, str] = read_json(index).get("weight_map") or {}
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        weight_map, files = {}, sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        found = f"only {pickles[0]}, and pickle files are never read" if pickles else "none"
        raise CheckpointError(f"{folder}: no *.safetensors file, found {found}; get the safetensors release")
    tensors: dict[str, SourceTensor] = {}
    for file in files:
        if file.parent != folder or not file.is_file():
            raise CheckpointError(f"{file}: named by {index.name} and not there; download it again")
        for tensor in _open_safetensors(file):
            if tensor.name in tensors:
                first = tensors[tensor.name].file.name
                raise CheckpointError(f"{file}: tensor {tensor.name!r} is also in {first}; remove the file left over")
            tensors[tensor.name] = tensor
    for name in sorted(weight_map.keys() - tensors.keys()):
        raise CheckpointError(f"{folder / weight_map[name]}: tensor {name!r} is missing, {index.name} lists it")
    return tensors


def _open_safetensors(file: Path) -> list[SourceTensor]:
    """List the tensors of one safetensors file."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors asks for by name
    from safetensors import SafetensorError, safe_open

    def reader(name: str) -> np.ndarray:
        with safe_open(file, framework="numpy") as opened:
            return opened.get_tensor(name)

    tensors = []
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  not a mapping
                view = opened.get_slice(name)
                dtype = view.get_dtype()
                if dtype not in _FLOATS and not _NOT_PARAMETERS.search(name):
                    raise CheckpointError(f"{file}: tensor {name!r} has type {dtype}; readable: {', '.join(_FLOATS)}")
                read = lambda name=name: reader(name)  # noqa: E731
                shape = tuple(view.get_shape())
                tensors.append(SourceTensor(name=name, file=file, shape=shape, dtype=dtype, read=read))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: {_what_is_cut(file) or error}; download it again") from None
    return tensors


def _what_is_cut(file: Path) -> str | None:
    """Name the first tensor that runs past the end of a truncated safetensors file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        if header_size + 8 > size:
            return f"truncated in its header, at {size} bytes"
        try:
            header: dict[str, Any] = json.loads(stream.read(header_size))
            ends = {
                name: 8 + header_size + v["data_offsets"][1] for name, v in header.items() if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    cut = sorted((end, name) for name, end in ends.items() if end > size)
    return f"tensor {cut[0][1]!r} is truncated: it ends at byte {cut[0][0]}, the file at {size}" if cut else None


def _check_tied(tensors: Mapping[str, SourceTensor]) -> None:
    """Refuse a tied model that stores another output head: either the flag or the head would be ignored."""
    head, embedding = tensors["lm_head.weight"], tensors.get("model.embed_tokens.weight")
    if embedding is not None and (head.shape != embedding.shape or not np.array_equal(head.read(), embedding.read())):
        raise CheckpointError(
            f"{head.file}: tensor 'lm_head.weight' differs from the embedding although config.json has "
            "tie_word_embeddings = true; set it to false if the head is meant"
        )


def read_tokenizer(folder: Path, raw: Mapping[str, Any]) -> TokenizerSpec:
    """Collect tokenizer.json, the chat template and the special ids of a folder.

    Args:
        folder: the Hugging Face folder.
        raw: fields of its config.json, which name eos ids where generation_config.json does not.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; save the tokenizer in its fast form (tokenizer.json)")
    text = path.read_text(encoding="utf-8")
    settings = _optional_json(folder / "tokenizer_config.json")
    generation = _optional_json(folder / "generation_config.json")
    ids = _token_ids(text, path)
    eos = _as_ids(generation.get("eos_token_id")) or _as_ids(raw.get("eos_token_id"))
    eos_name, pad_name, bos_name = (_content(settings.get(f"{kind}_token")) for kind in ("eos", "pad", "bos"))
    if eos_name in ids:
        eos += (ids[eos_name],)
    return TokenizerSpec(
        tokenizer_json=text,
        chat_template=_chat_template(folder, settings),
        bos_id=ids.get(bos_name) if bos_name else None,
        eos_ids=tuple(sorted(set(eos))),
        pad_id=ids.get(pad_name) if pad_name else None,
    )


def _optional_json(path: Path) -> dict[str, Any]:
    """Fields of a JSON file that need not exist."""
    return read_json(path) if path.is_file() else {}


def _token_ids(tokenizer_json: str, path: Path) -> dict[str | None, int]:
    """Token -> id of a tokenizer.json, added tokens included."""
    try:
        tokenizer = json.loads(tokenizer_json)
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
        return {**tokenizer["model"]["vocab"], **added}
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: not a tokenizer with a vocabulary; download it again") from None


def _as_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """An id, a list of ids or nothing, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _content(token: str | Mapping[str, Any] | None) -> str | None:
    """Text of a special token, which is stored bare or as a record."""
    return token.get("content") if isinstance(token, Mapping) else token


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The folder's chat template; of several named ones, the one called default."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template
