"""A corpus on the disk: whole shards, no text twice, and ids from which all can be computed again."""

import dataclasses

import numpy as np
import pytest

from gelato_jax.errors import GelatoError
from gelato_jax.training import corpus as corpora
from gelato_jax.training.corpus import Conversation, read_corpus, shard_paths, write_corpus, write_shard
from gelato_jax.training.ids import read_ids, write_ids
from gelato_jax.training.soft_labels import label, label_corpus

FIELDS = ("tokens", "top_ids", "top_log_probs")


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


def killer(at: int):
    def progress(done: int, total: int) -> None:
        if done >= at:
            raise Killed

    return progress


def same(left: Conversation, right: Conversation) -> bool:
    arrays = all(np.array_equal(getattr(left, name), getattr(right, name)) for name in FIELDS)
    return arrays and (left.answer_start, left.temperature) == (right.answer_start, right.temperature)


def test_no_conversation_stands_twice(corpus):
    texts = [c.tokens.tobytes() for c in corpus[0]]
    assert len(set(texts)) == len(texts)


def test_a_target_that_repeats_itself_is_told(target, frame, settings, monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "_REPEATS", 40)
    dull = dataclasses.replace(settings, longest_user=1, opened=1.0, temperatures=(0.0,))
    with pytest.raises(GelatoError, match=r"were there already, at .* of 4000 tokens: take longer"):
        write_corpus(target, frame, tmp_path, dull, [[11]])


def test_no_room_is_told_before_anything_is_written(target, frame, settings, tmp_path):
    with pytest.raises(GelatoError, match="slots is 8, must be at least 9"):
        write_corpus(target, frame, tmp_path / "x", dataclasses.replace(settings, slots=8), [[11, 12]])
    assert not (tmp_path / "x").exists()


def test_a_killed_writer_goes_on_behind_its_last_shard(target, frame, settings, openings, tmp_path):
    with pytest.raises(Killed):
        write_corpus(target, frame, tmp_path, settings, openings, killer(2500))
    there = {path: path.read_bytes() for path in shard_paths(tmp_path)}
    assert 1 <= len(there) <= 2
    write_corpus(target, frame, tmp_path, settings, openings)
    assert all(path.read_bytes() == content for path, content in there.items())
    conversations = list(read_corpus(tmp_path))
    assert settings.tokens <= sum(len(c.tokens) for c in conversations) < settings.tokens + 1000
    assert len({c.tokens.tobytes() for c in conversations}) == len(conversations)


def test_a_finished_corpus_is_left_alone(corpus, target, frame, settings, openings):
    conversations, folder = corpus
    write_corpus(target, frame, folder, settings, openings)
    assert len(list(read_corpus(folder))) == len(conversations)


def test_a_shard_is_whole_or_not_there(corpus, monkeypatch, tmp_path):
    def savez(file, **arrays):
        file.write(b"half a shard")
        raise Killed

    monkeypatch.setattr(corpora.np, "savez", savez)
    with pytest.raises(Killed):
        write_shard(tmp_path / "shard-00000.npz", corpus[0])
    assert list(tmp_path.iterdir()) == []


def test_ids_are_small_and_whole(corpus, tmp_path):
    path = tmp_path / "ids.npz"
    write_ids(path, corpus[0])
    read = read_ids(path)
    assert len(read) == len(corpus[0])
    for ours, theirs in zip(read, corpus[0], strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        assert ours.tokens.dtype == np.uint16
        assert (ours.answer_start, ours.temperature) == (theirs.answer_start, theirs.temperature)
        assert ours.top_ids.shape == (len(ours.tokens), 0)
    assert path.stat().st_size < 2 * sum(len(c.tokens) for c in read) + 2000


def test_ids_beyond_16_bits_are_kept(corpus, tmp_path):
    far = dataclasses.replace(corpus[0][0], tokens=corpus[0][0].tokens.astype(np.uint32) + 70_000)
    write_ids(tmp_path / "ids.npz", [far])
    np.testing.assert_array_equal(read_ids(tmp_path / "ids.npz")[0].tokens, far.tokens)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_file_that_is_no_corpus_is_told(content, tmp_path):
    path = tmp_path / "ids.npz"
    path.write_bytes(content)
    with pytest.raises(GelatoError, match=r"ids.npz: not a corpus of token ids"):
        read_ids(path)


def test_recording_gives_what_was_recorded_while_writing(corpus, target, frame, tmp_path):
    conversations = corpus[0][:40]
    write_ids(tmp_path / "ids.npz", conversations)
    for ours, theirs in zip(label(target, read_ids(tmp_path / "ids.npz"), frame), conversations, strict=True):
        np.testing.assert_allclose(ours.top_log_probs, theirs.top_log_probs, rtol=2e-3, atol=1e-3)
        assert (ours.top_ids == theirs.top_ids).mean() > 0.99  # equals but for near ties
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)


def test_a_killed_recorder_goes_on(corpus, target, frame, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    label_corpus(target, corpus[0], frame, whole, shard_tokens=800)
    with pytest.raises(Killed):
        label_corpus(target, corpus[0], frame, killed, shard_tokens=800, progress=killer(2500))
    assert 0 < len(shard_paths(killed)) < len(shard_paths(whole))
    label_corpus(target, corpus[0], frame, killed, shard_tokens=800)
    pairs = list(zip(read_corpus(killed), read_corpus(whole), strict=True))
    assert len(pairs) == len(corpus[0])
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in pairs)
    assert all(np.allclose(a.top_log_probs, b.top_log_probs, atol=1e-2) for a, b in pairs)
