"""What every file of the package shares: errors, the progress call, and what a reader hands to the converter."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gelato_jax.config import ModelConfig
from gelato_jax.errors import GelatoError


class CheckpointError(GelatoError):
    """A checkpoint cannot be found, read, converted or written; one line: the file, the value and the fix."""


class OnProgress(Protocol):
    """Called as work goes on, so that a command can draw a bar.

    Stages, in order: `download` (bytes), `check` (bytes hashed), `convert` (tensors), `write` (tensors), `load`
    (tensors); `pack` (once) where weights are brought to blocks. `total` is 0 where it is unknown. Three are news, not
    work: `untrained`, no trained draft ships for the target, whose own first layers stand in; `uncompiled`, weights
    stay floats for want of a compiler; `shorter`, the draft has learnt `done` positions of the target's `total`,
    and the pair takes no more.
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Hear that `done` of `total` units of a stage are through."""


def silent(stage: str, done: int, total: int) -> None:
    """A `OnProgress` that shows nothing."""


@contextmanager
def one_line(path: Path, action: str) -> Iterator[None]:
    """Turn an operating system's error, such as a full disk, into one line: `path` cannot be `action`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be {action}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class SourceTensor:
    """One tensor of a source file, not yet read.

    Attributes:
        name: its name in the source.
        file: the file that holds it, for messages.
        shape: its shape as the source's framework sees it, [out, in] for a projection.
        dtype: its storage type, for messages and for `dtype="auto"`.
        read: reads it: float32, float16 or bfloat16, of `shape`.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Everything that turns text into ids and back, as text: what a checkpoint stores of its tokenizer.

    Attributes:
        tokenizer_json: contents of a `tokenizers` JSON file.
        chat_template: Jinja template of a conversation, or None for a base model.
        bos_id: id that a template calls `bos_token`, or None.
        eos_ids: ids that end an answer, ascending.
        pad_id: id used for padding, or None.
        eos_id: the one of `eos_ids` that a template calls `eos_token`, or None.
    """

    tokenizer_json: str = field(repr=False)
    chat_template: str | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    eos_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint of another project, opened but not read.

    Attributes:
        format: `huggingface` or `gguf`.
        config: the model that its tensors describe.
        tensors: by source name, non-parameters left out.
        tokenizer: its tokenizer.
        files: every file that conversion reads, for the checksums of the provenance.
        ignored: names of the tensors left out, with the reason.
    """

    format: str
    config: ModelConfig
    tensors: Mapping[str, SourceTensor]
    tokenizer: TokenizerSpec
    files: tuple[Path, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
