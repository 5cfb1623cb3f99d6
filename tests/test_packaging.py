"""The wheel: what it puts on a path, and that it decodes from there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

GENERATE = """
import gelato_jax as gelato, gelato_kernels, gelato_checkpoints, gelato_experiments, sys
for package in (gelato, gelato_kernels, gelato_checkpoints, gelato_experiments):
    assert package.__file__.startswith(sys.argv[1]), package.__file__
from gelato_experiments.prompts import read_prompts
assert len(read_prompts()) >= 8
pair = gelato.testing.tiny_pair()
settings = gelato.DecodeSettings(max_draft_length=2, max_new_tokens=6)
found = gelato.generate(pair, ["1 2 3"], settings=settings).tokens
print(found == gelato.autoregressive(pair, ["1 2 3"], settings=settings))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(REPOSITORY),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_no_generic_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "gelato_jax",
        "gelato_kernels",
        "gelato_checkpoints",
        "gelato_experiments",
    }


def test_the_wheel_decodes_outside_the_repository(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    run = subprocess.run(
        [sys.executable, "-c", GENERATE, str(site)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "True\n", run.stderr
