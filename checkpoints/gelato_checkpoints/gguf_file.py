"""GGUF files of llama.cpp: architectures llama, qwen2, qwen3, types F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q4_K Q6_K.

Field names follow the GGUF specification (ggml/docs/gguf.md) and llama.cpp's convert_hf_to_gguf.py.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, ReaderTensor
from gguf.quants import dequantize

from gelato_checkpoints.base import CheckpointError, Source, SourceTensor
from gelato_checkpoints.fields import Fields
from gelato_checkpoints.gguf_tokenizer import rebuild_tokenizer
from gelato_jax.config import ModelConfig, RopeScaling
from gelato_jax.errors import GelatoError

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TENSOR_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")

_ROPE_FACTORS = "rope_freqs.weight"

# GGUF stores the divisors that Llama 3's scaling gives and not its parameters. These three are the same in every
# release (config.json of Llama 3.1, 3.2 and 3.3); the fourth, the factor, is the largest divisor.
_LLAMA3_LOW_FREQ_FACTOR = 1.0
_LLAMA3_HIGH_FREQ_FACTOR = 4.0
_LLAMA3_ORIGINAL_POSITIONS = 8192
_ROPE_FACTOR_TOLERANCE = 1e-4  # relative; the divisors are stored in float32

# What betrays a Llama that was trained with that scaling: its name, or Llama 3's base with a context beyond Llama 3's.
_SCALED_NAME = re.compile(r"llama[-_ ]?3[._][1-9]", re.IGNORECASE)
_LLAMA3_ROPE_THETA = 500000.0

# llama.cpp's default where the file names no base.
_DEFAULT_ROPE_THETA = 10000.0


class _Reader(GGUFReader):
    """A GGUF reader that names the tensor at which a truncated file ends."""

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        """Check every tensor's start before the base class maps its bytes."""
        for field in fields:
            name, offset = bytes(field.parts[1]).decode("utf-8", "replace"), int(field.parts[-1][0])
            try:
                super()._build_tensors(start_offs, [field])
            except ValueError as error:
                at = f"it starts at byte {start_offs + offset}, the file ends at {len(self.data)}"
                raise CheckpointError(f"tensor {name!r} is truncated: {at} ({error})") from None
        super()._build_tensors(start_offs, fields)


def open_gguf(file: Path) -> Source:
    """Open a GGUF file without reading its tensors.

    Raises:
        CheckpointError: the file is cut short, or holds something that is not supported.
    """
    try:
        reader = _Reader(file)
        fields = Fields({name: field.contents() for name, field in reader.fields.items()}, file)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}; download it again") from None
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{file}: not a whole GGUF file ({error}); download it again") from None
    tensors = {tensor.name: _lazy(tensor, file) for tensor in reader.tensors}
    family = _family(fields)
    scaling = _rope_scaling(tensors, fields, family)
    ignored = {_ROPE_FACTORS: "checked against rope_scaling"} if scaling else {}
    return Source(
        format="gguf",
        config=_parse_config(fields, family, tensors, scaling),
        tensors={name: tensor for name, tensor in tensors.items() if name not in ignored},
        tokenizer=rebuild_tokenizer(fields, _types_of_tokens(reader)),
        files=(file,),
        ignored=ignored,
    )


def _types_of_tokens(reader: GGUFReader) -> np.ndarray | None:
    """The token types, when the file has them."""
    field = reader.fields.get("tokenizer.ggml.token_type")
    if field is None or field.types[-1] not in (GGUFValueType.INT32, GGUFValueType.UINT32):
        return None
    return np.array(field.contents())


def _lazy(tensor: ReaderTensor, file: Path) -> SourceTensor:
    """A tensor that is dequantised when it is read; GGUF lists dimensions innermost first."""
    shape = tuple(int(n) for n in reversed(tensor.shape))

    def read() -> np.ndarray:
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False).reshape(shape)

    if tensor.tensor_type.name not in TENSOR_TYPES:
        raise CheckpointError(
            f"{file}: tensor {tensor.name!r} has type {tensor.tensor_type.name}; readable: {', '.join(TENSOR_TYPES)}"
        )
    return SourceTensor(name=tensor.name, file=file, shape=shape, dtype=tensor.tensor_type.name, read=read)


def _parse_config(
    fields: Fields, family: str, tensors: dict[str, SourceTensor], scaling: RopeScaling | None
) -> ModelConfig:
    """Turn the metadata fields into a ModelConfig."""
    heads, hidden = fields.integer(f"{family}.attention.head_count"), fields.integer(f"{family}.embedding_length")
    width = fields.integer(f"{family}.attention.key_length", hidden // heads)
    context = fields.integer(f"{family}.context_length")
    _refuse_variants(fields, family, width, context)
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{fields.path}: tensor 'token_embd.weight' is missing; download it again")
    values: dict[str, Any] = {
        "family": family,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "mlp_size": fields.integer(f"{family}.feed_forward_length"),
        "num_layers": fields.integer(f"{family}.block_count"),
        "num_heads": heads,
        "num_kv_heads": fields.integer(f"{family}.attention.head_count_kv", heads),
        "head_dim": width,
        "rope_theta": _rope_theta(fields, family),
        "norm_eps": _decimal(fields.decimal(f"{family}.attention.layer_norm_rms_epsilon")),
        "max_positions": context,
        "rope_scaling": scaling,
        "qkv_bias": "blk.0.attn_q.bias" in tensors,
        "qk_norm": family == "qwen3",
        "tied_head": "output.weight" not in tensors,
    }
    try:
        return ModelConfig(**values)
    except GelatoError as error:
        raise CheckpointError(f"{fields.path}: {error}") from None


def _decimal(value: float) -> float:
    """The decimal number that a float32 field was written from: 9.99999975e-06 means 1e-05."""
    return float(str(np.float32(value)))


def _rope_theta(fields: Fields, family: str) -> float:
    """The rotary base."""
    return _decimal(fields.decimal(f"{family}.rope.freq_base", _DEFAULT_ROPE_THETA))


def _family(fields: Fields) -> str:
    """The architecture, if it is one of ours."""
    architecture = fields.values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{fields.path}: architecture {architecture!r} is not supported; known: {known}")
    return architecture


def _refuse_variants(fields: Fields, family: str, width: int, context: int) -> None:
    """Refuse options under which the same tensors would mean another computation."""
    kind, factor = f"{family}.rope.scaling.type", f"{family}.rope.scaling.factor"
    window = f"{family}.attention.sliding_window"
    is_identity = fields.text(kind) == "linear" and fields.decimal(factor, 1.0) == 1.0
    refused = {
        kind: fields.text(kind, "none") != "none" and not is_identity,
        f"{family}.rope.scale_linear": fields.decimal(f"{family}.rope.scale_linear", 1.0) != 1.0,
        f"{family}.rope.dimension_count": fields.integer(f"{family}.rope.dimension_count", width) != width,
        f"{family}.attention.value_length": fields.integer(f"{family}.attention.value_length", width) != width,
        window: 0 < fields.integer(window, 0, low=0) < context,
        f"{family}.expert_count": fields.integer(f"{family}.expert_count", 0, low=0) != 0,
        "split.count": fields.integer("split.count", 0, low=0) > 1,
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise fields.refuse(name, "is not supported; choose a model without it")


def llama3_divisors(scaling: RopeScaling, theta: float, head_dim: int) -> np.ndarray:
    """What Llama 3's scaling divides each rotary frequency by.

    Source: `_compute_llama3_parameters` of transformers' modeling_rope_utils.py.

    Returns:
        [H/2] float64, from 1 (fast frequencies) to `factor` (slow ones).
    """
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    ratio = scaling.original_max_positions / wavelength
    smooth = (ratio - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return 1 / ((1 - np.clip(smooth, 0, 1)) / scaling.factor + np.clip(smooth, 0, 1))


def _rope_scaling(tensors: dict[str, SourceTensor], fields: Fields, family: str) -> RopeScaling | None:
    """The Llama 3 scaling behind the file's rotary divisors, or None where it has none.

    Raises:
        CheckpointError: the divisors are not Llama 3's: another scaling, which the models here do not have; or they
            are missing from a model that was trained with them.
    """
    if family != "llama":
        return None
    if _ROPE_FACTORS not in tensors:
        _refuse_forgotten_scaling(fields, family)
        return None
    stored = tensors[_ROPE_FACTORS].read()
    scaling = RopeScaling(
        factor=_decimal(stored.max()),
        low_freq_factor=_LLAMA3_LOW_FREQ_FACTOR,
        high_freq_factor=_LLAMA3_HIGH_FREQ_FACTOR,
        original_max_positions=_LLAMA3_ORIGINAL_POSITIONS,
    )
    heads, hidden = fields.integer(f"{family}.attention.head_count"), fields.integer(f"{family}.embedding_length")
    width = fields.integer(f"{family}.attention.key_length", hidden // heads)
    expected = llama3_divisors(scaling, _rope_theta(fields, family), width)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=_ROPE_FACTOR_TOLERANCE):
        what = f"tensor {_ROPE_FACTORS!r} is not Llama 3's scaling"
        raise CheckpointError(f"{fields.path}: {what}; use the Hugging Face folder")
    return scaling


def _refuse_forgotten_scaling(fields: Fields, family: str) -> None:
    """Refuse a Llama 3.1 or later without divisors: converters of before July 2024 dropped the scaling."""
    context, theta = fields.integer(f"{family}.context_length"), _rope_theta(fields, family)
    names = [str(fields.values.get(f"general.{key}", "")) for key in ("name", "basename", "base_model.0.name")]
    is_named = any(_SCALED_NAME.search(name) for name in names)
    if is_named or (theta == _LLAMA3_ROPE_THETA and context > _LLAMA3_ORIGINAL_POSITIONS):
        raise CheckpointError(
            f"{fields.path}: {names[0] or 'this model'} (base {theta:g}, context {context}) needs Llama 3's rotary "
            f"scaling, and tensor {_ROPE_FACTORS!r} is missing; convert it by a newer llama.cpp, or download it again"
        )
