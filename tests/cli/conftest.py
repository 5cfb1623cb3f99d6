"""The command line on a tiny pair: `load_pair` is replaced, everything else is real."""

import dataclasses

import pytest

import gelato_checkpoints
from gelato_jax.cli.main import run
from gelato_jax.testing import tiny_pair


@pytest.fixture(scope="session")
def pair():
    return tiny_pair(exits=())


@pytest.fixture
def gelato(pair, monkeypatch, tmp_path, capfd):
    """Run a command line in this process: (exit code, standard output, standard error)."""

    def load_pair(target, draft, *, weights, cache="auto", progress):
        return dataclasses.replace(pair, target=pair.target.with_cache(cache))

    monkeypatch.setattr(gelato_checkpoints, "load_pair", load_pair)
    monkeypatch.setenv("GELATO_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = run(arguments)
        except SystemExit as end:
            code = end.code or 0
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call
