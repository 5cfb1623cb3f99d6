"""A tiny target of 61 ids and the corpus that it wrote: 60 ends a turn, 5 6 7 stand ahead of a user's, 8 9 behind."""

import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.testing import tiny_config, tiny_model
from gelato_jax.training.corpus import CorpusSettings, read_corpus, write_corpus
from gelato_jax.training.writing import Frame

VOCAB, PREFIX, HEADER, END = 61, (5, 6, 7), (8, 9), 60
OPENINGS = ((11, 12), (13,))


@pytest.fixture(scope="session")
def target():
    """Of four layers, with a sharp head: its greedy text is learnable and its sampled text is not dull."""
    return tiny_model(tiny_config(VOCAB, 4), sharpness=3.0)


def frame_of(prefix=PREFIX, header=HEADER) -> Frame:
    ids = (jnp.asarray(part, jnp.int32) for part in (prefix, header, (END,)))
    return Frame(**dict(zip(("prefix", "header", "ends"), ids, strict=True)), num_recorded=12)


@pytest.fixture(scope="session")
def frame():
    return frame_of()


@pytest.fixture(scope="session")
def base_frame():
    """Of a model without a chat template: one token begins a text, and no header stands in it."""
    return frame_of((END,), ())


@pytest.fixture(scope="session")
def openings():
    return OPENINGS


@pytest.fixture(scope="session")
def settings():
    return CorpusSettings(
        tokens=4000, rows=16, slots=48, longest_user=8, longest_answer=16, num_recorded=12, shard_tokens=1000
    )


@pytest.fixture(scope="session")
def corpus(target, frame, settings, tmp_path_factory):
    """Conversations, and beside them the folder that they were read from."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(target, frame, folder, settings, OPENINGS)
    return list(read_corpus(folder)), folder


@pytest.fixture(scope="session")
def log_probs(target):
    """NumPy log-softmax of the target ahead of every token of a text but the first, `[n - 1, V]` float64."""
    rows: dict[bytes, np.ndarray] = {}

    def compute(tokens: np.ndarray) -> np.ndarray:
        key = tokens.astype(np.int32).tobytes()
        if key not in rows:
            padded = np.zeros((1, 64), np.int32)
            padded[0, : len(tokens)] = tokens
            decoder = target.bind()
            x, _ = decoder.forward(jnp.asarray(padded), None, jnp.zeros((1,), jnp.int32))
            logits = np.asarray(decoder.unembed(x)[0], np.float64)[: len(tokens) - 1]
            shifted = logits - logits.max(axis=-1, keepdims=True)
            rows[key] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return rows[key]

    return compute
