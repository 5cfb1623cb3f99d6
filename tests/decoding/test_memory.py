"""Caches that would not fit are refused before anything runs."""

import dataclasses

import jax
import pytest

import gelato_jax as gelato
from gelato_jax import testing
from gelato_jax.decoding import DraftModel, lookup, memory
from gelato_jax.decoding.job import buffer_slots
from gelato_jax.decoding.prefill import begin_reading
from gelato_jax.errors import GelatoError

SETTINGS = gelato.DecodeSettings(max_new_tokens=8, prefill_chunk=16)


def bytes_of(model, rows, slots):
    return sum(array.nbytes for array in jax.tree.leaves(begin_reading(model, rows, slots).cache))


def test_caches_are_as_large_as_is_said():
    pair = testing.tiny_pair(exits=())
    assert isinstance(pair.draft, DraftModel)
    expected = bytes_of(pair.target, 3, 64) + bytes_of(pair.draft.model, 3, 64)
    assert memory.cache_bytes(pair, 3, 64) == expected > 0
    alone = dataclasses.replace(pair, draft=lookup())
    assert memory.cache_bytes(alone, 3, 64) == bytes_of(pair.target, 3, 64)


@pytest.mark.parametrize("decode", [gelato.generate, gelato.stream, gelato.autoregressive])
def test_what_does_not_fit_is_refused(decode, monkeypatch):
    pair = testing.tiny_pair(exits=())
    slots = buffer_slots(11, SETTINGS.shapes)
    needed = memory.cache_bytes(pair, 2, slots)
    monkeypatch.setattr(memory, "free_bytes", lambda: needed - 1)
    with pytest.raises(GelatoError, match=rf"2 texts of up to {slots} tokens need \d.\d\d GB .* decode fewer at once"):
        decode(pair, [[1, 2, 3], [4]], settings=SETTINGS)
    monkeypatch.setattr(memory, "free_bytes", lambda: needed)
    decode(pair, [[1, 2, 3], [4]], settings=SETTINGS)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)  # a device that does not say
    decode(pair, [[1, 2, 3], [4]], settings=SETTINGS)


def container(tmp_path, limit, used, files):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    machine = memory.free_bytes() or 0
    assert machine > 1000
    container(tmp_path, 1000, 300, 50)
    assert memory.free_bytes() == 750
    container(tmp_path, "max", 300, 50)
    assert (memory.free_bytes() or 0) > 1000
    (tmp_path / "memory.stat").write_text("nothing of the kind\n")
    assert (memory.free_bytes() or 0) > 1000
