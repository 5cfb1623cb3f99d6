"""Safetensors: one file, or the shards that an index names. Pickle files are never read.

Source: the safetensors format description, and the two names that transformers looks for.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from gelato_checkpoints.base import CheckpointError, SourceTensor
from gelato_checkpoints.fields import Fields, read_json

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_FLOATS = ("F32", "F16", "BF16")

# Buffers that old releases of transformers saved beside the parameters; all follow from the config.
NOT_PARAMETERS = re.compile(r"\.(rotary_emb\.inv_freq|self_attn\.masked_bias|attn\.bias)$")


def open_weights(folder: Path) -> dict[str, SourceTensor]:
    """List the tensors of a folder: of the shards that its index names, else of model.safetensors.

    Other files of the folder, such as adapters or an older release's weights, are not looked at.

    Raises:
        CheckpointError: there are no weights, or a shard or a tensor that the index names is not there.
    """
    weight_map = _weight_map(folder / _INDEX)
    if not weight_map and not (folder / _WHOLE).is_file():
        raise CheckpointError(f"{folder}: no {_WHOLE} and no {_INDEX}, found {_found(folder)}")
    tensors: dict[str, SourceTensor] = {}
    for file in [folder / name for name in sorted(set(weight_map.values()))] or [folder / _WHOLE]:
        if file.parent != folder or not file.is_file():
            raise CheckpointError(f"{file}: named by {_INDEX} and not there; download it again")
        for tensor in _open_safetensors(file):
            if tensor.name in tensors:
                first = tensors[tensor.name].file.name
                raise CheckpointError(f"{file}: tensor {tensor.name!r} is also in {first}; download both again")
            tensors[tensor.name] = tensor
    for name in sorted(weight_map.keys() - tensors.keys()):
        raise CheckpointError(f"{folder / weight_map[name]}: tensor {name!r} is missing, {_INDEX} lists it")
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file of an index; nothing where there is no index."""
    if not index.is_file():
        return {}
    weight_map = dict(Fields(read_json(index), index).mapping("weight_map"))
    if not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must name the file of every tensor; download it again")
    return weight_map


def _found(folder: Path) -> str:
    """What a folder without weights has in their place, and the fix."""
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return f"{others[0]}, which no index names; rename it to {_WHOLE} if it holds the whole model"
    kind = f"only {pickles[0]}, and pickle files are never read" if pickles else "none"
    return f"{kind}; get the safetensors release"


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
                if dtype not in _FLOATS and not NOT_PARAMETERS.search(name):
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
