"""Corpora of one target as one file."""

import subprocess
import sys

import numpy as np
import pytest

from gelato_experiments.merge_corpora import merge
from gelato_jax.errors import GelatoError
from gelato_jax.training.corpus import Conversation, shard_path, write_shard
from gelato_jax.training.ids import read_ids, write_ids


def conversation(*tokens, start=1):
    return Conversation(
        tokens=np.array(tokens, np.uint16),
        answer_start=start,
        temperature=0.5,
        top_ids=np.zeros((len(tokens), 2), np.uint16),
        top_log_probs=np.zeros((len(tokens), 2), np.float16),
    )


@pytest.fixture
def corpora(tmp_path):
    """A file of ids, and a folder of shards that shares a conversation with it."""
    write_ids(tmp_path / "a.npz", [conversation(1, 2, 3), conversation(4, 70_000 % 65_536)])
    (tmp_path / "b").mkdir()
    write_shard(shard_path(tmp_path / "b", 0), [conversation(1, 2, 3), conversation(1, 2, 3, start=2)])
    return [tmp_path / "a.npz", tmp_path / "b"]


def test_each_conversation_is_there_once(corpora, tmp_path):
    merge(tmp_path / "out.npz", corpora)
    found = [(c.tokens.tolist(), c.answer_start, c.temperature) for c in read_ids(tmp_path / "out.npz")]
    assert found == [([1, 2, 3], 1, 0.5), ([4, 4464], 1, 0.5), ([1, 2, 3], 2, 0.5)]


def test_what_is_no_corpus_is_one_line(corpora, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(GelatoError, match="holds no shard"):
        merge(tmp_path / "out.npz", [*corpora, tmp_path / "empty"])
    with pytest.raises(GelatoError, match="name another file"):
        merge(corpora[0], corpora)
    assert not (tmp_path / "out.npz").exists()
    command = [sys.executable, "-m", "gelato_experiments.merge_corpora", str(tmp_path / "out.npz"), "absent.npz"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "absent.npz" in ran.stderr
