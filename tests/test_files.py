"""Files are replaced whole or stay as they were."""

import errno
import os
from pathlib import Path

import pytest

from gelato_jax.files import atomic_write, check_writable, read_json, write_json


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def alone(path) -> bool:
    """Whether nothing else is left in the file's folder."""
    return os.listdir(path.parent) == [path.name]


def test_a_file_is_replaced_when_the_block_ends(old):
    with atomic_write(old) as file:
        file.write(b"new")
        file.flush()
        assert old.read_bytes() == b"old"
    assert old.read_bytes() == b"new"
    assert alone(old)


def write_and_fail(path, error):
    with atomic_write(path) as file:
        file.write(b"ne")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_error_leaves_the_old_file(old, error):
    with pytest.raises(error if isinstance(error, type) else OSError):
        write_and_fail(old, error)
    assert old.read_bytes() == b"old"
    assert alone(old)


def test_a_disk_that_is_full_at_the_end_leaves_the_old_file(old, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(old, {"text": "new"})
    assert old.read_bytes() == b"old"
    assert alone(old)


def test_writers_at_once_do_not_meet(old):
    with atomic_write(old) as one, atomic_write(old) as other:
        one.write(b"one")
        other.write(b"other")
    assert old.read_bytes() == b"one"  # its block ended last
    assert alone(old)


def test_a_link_stays_a_link(old, tmp_path):
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(old)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert old.read_bytes() == b"new"
    assert alone(link)


def test_a_device_stays_a_device():
    device = Path(os.devnull)
    check_writable(device)
    with atomic_write(device) as file:
        file.write(b"new")
    assert not device.is_file()


@pytest.mark.parametrize("name", ["", "missing/file"])
def test_a_place_that_cannot_be_written_is_refused_by_its_name(tmp_path, name):
    path = tmp_path / name
    with pytest.raises((IsADirectoryError, FileNotFoundError)) as checked:
        check_writable(path)
    with pytest.raises((IsADirectoryError, FileNotFoundError)) as written, atomic_write(path):
        pass
    assert checked.value.filename == written.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_looking_leaves_nothing_behind(old):
    check_writable(old)
    check_writable(old.with_name("other"))
    assert old.read_bytes() == b"old"
    assert alone(old)


def test_json_comes_back(tmp_path):
    path = tmp_path / "facts.json"
    assert read_json(path) is None
    write_json(path, {"name": "é", "values": [1, 2.5, None]})
    assert read_json(path) == {"name": "é", "values": [1, 2.5, None]}
    assert path.read_text("utf-8").endswith("]\n}\n")
