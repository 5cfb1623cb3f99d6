"""A corpus as its token ids alone: small enough to be kept with the draft that it made.

What the target thought of each token is left out; `recording` computes it again.
"""

from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from gelato_jax.errors import GelatoError
from gelato_jax.files import atomic_write
from gelato_jax.training.corpus import Conversation, id_type

_ARRAYS = ("tokens", "lengths", "answer_start", "temperature")


def write_ids(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write token ids, compressed: about 1.5 bytes a token (uint16 where ids allow it)."""
    tokens = np.concatenate([c.tokens for c in conversations])
    arrays = {
        "tokens": tokens.astype(id_type(int(tokens.max()))),
        "lengths": np.array([len(c.tokens) for c in conversations], np.uint16),
        "answer_start": np.array([c.answer_start for c in conversations], np.uint16),
        "temperature": np.array([c.temperature for c in conversations], np.float32),
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_ids(path: Path) -> list[Conversation]:
    """Conversations of a file of ids; nothing is recorded of their tokens (`top_ids` is `[n, 0]`).

    Raises:
        GelatoError: the file is no such file.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            tokens, lengths, starts, temperatures = (arrays[name] for name in _ARRAYS)
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        line = str(error).splitlines()[0]
        raise GelatoError(f"{path}: not a corpus of token ids ({line}); take one that `write_ids` made") from None
    texts = np.split(tokens, np.cumsum(lengths.astype(np.int64))[:-1])
    return [
        Conversation(
            tokens=text,
            answer_start=int(start),
            temperature=float(temperature),
            top_ids=np.zeros((len(text), 0), tokens.dtype),
            top_log_probs=np.zeros((len(text), 0), np.float16),
        )
        for text, start, temperature in zip(texts, starts, temperatures, strict=True)
    ]
