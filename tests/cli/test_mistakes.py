"""A user's mistake: one line that names the option, its value and the fix; exit code 2; nothing loaded."""

import inspect
from typing import get_args, get_type_hints

import pytest

import gelato_checkpoints
from gelato_jax import control, payloads, system
from gelato_jax.cli import options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no PROMPT", "gelato generate"]),
        (["hi", "--prompt-file", "x"], ["PROMPT", "--prompt-file", "leave one"]),
        (["  "], ["PROMPT", "empty"]),
        (["hi", "--max-new-tokens", "0"], ["--max-new-tokens", "0", "at least 1"]),
        (["hi", "--max-new-tokens", "ten"], ["--max-new-tokens", "ten"]),
        (["hi", "--max-new-token", "3"], ["--max-new-token", "--help"]),
        (["hi", "--temperature", "-1"], ["--temperature", "-1"]),
        (["hi", "--temperature", "nan"], ["--temperature", "nan"]),
        (["hi", "--top-p", "1.5"], ["--top-p", "1.5", "1e-06..1"]),
        (["hi", "--top-k", "-1"], ["--top-k", "-1"]),
        (["hi", "--seed", "-1"], ["--seed", "-1"]),
        (["hi", "--stop", ""], ["--stop", "empty"]),
        (["hi", "--max-draft-length", "33"], ["--max-draft-length", "33", "0..32"]),
        (["hi", "--controller", "magic"], ["--controller", "magic", "ratio"]),
        (["hi", "--controller", "gelato"], ["--controller", "gelato", "--power-budget-w"]),
        (["hi", "--controller", "static", "--power-budget-w", "2"], ["--power-budget-w", "static", "ratio"]),
        (["hi", "--draft-length", "3"], ["--draft-length", "ratio", "static"]),
        (["hi", "--power-budget-w", "0.1"], ["0.1", "W", "raise"]),
        (["hi", "--payload", "top_p", "--payload-top-p", "0"], ["--payload-top-p", "0"]),
        (["hi", "--payload-bits", "8"], ["--payload-bits", "candidates", "quantized"]),
        (["hi", "--device", "abacus"], ["device", "abacus", "orin-nano-15w"]),
        (["hi", "--link", "string"], ["link", "string", "wifi"]),
        (["hi", "--edge", "moon"], ["edge", "moon", "h100-7b"]),
        (["hi", "--system", "local", "--link", "wifi"], ["--link", "--system", "local"]),
        (["--prompt-file", "/nowhere/prompt.txt"], ["/nowhere/prompt.txt", "No such file"]),
        (["hi", "--json", "/nowhere/out.json"], ["/nowhere/out.json", "No such file"]),
        (["hi", "--json", "/"], ["/", "directory"]),
    ],
)
def test_one_line(gelato, monkeypatch, arguments, words):
    def refuse(*_, **__):
        raise AssertionError("loaded a model before looking at the options")

    monkeypatch.setattr(gelato_checkpoints, "load_pair", refuse)
    code, out, error = gelato("generate", *arguments)
    assert code == 2
    assert out == ""
    assert error.startswith("gelato: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def test_unknown_command_and_no_command(gelato):
    code, out, error = gelato("generat", "hi")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert "generat" in error
    code, out, error = gelato()
    assert code == 0
    assert all(name in out for name in ("generate", "convert", "models", "presets"))


def test_prompt_file_not_utf8(gelato, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("1 2 caf\xe9".encode("latin-1"))
    code, _, error = gelato("generate", "--prompt-file", str(path))
    assert code == 2
    assert "latin.txt: not UTF-8 at byte 7" in error


def test_a_fault_of_ours_keeps_its_traceback(gelato, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr(gelato_checkpoints, "load_pair", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        gelato("generate", "1 2")


def test_power_floor_names_both_numbers(gelato):
    floor = control.power_floor_w(system.preset(), payloads.candidates(32), vocab_size=2**16)
    code, _, error = gelato("generate", "1", "--power-budget-w", "0.25")
    assert code == 2
    assert "0.25" in error
    assert f"{floor:.3g} W" in error


def test_lists_repeat_the_registries():
    """options.py imports nothing heavy, so its lists are copies."""
    hints = {**get_type_hints(options.ControlOptions), **get_type_hints(options.PayloadOptions)}
    assert set(get_args(hints["controller"])) == set(control.CONTROLLERS)
    assert set(get_args(hints["length_exit"])) == set(control.LENGTH_EXITS)
    assert set(get_args(hints["depth_exit"])) == set(control.DEPTH_EXITS)
    assert set(get_args(hints["draft_sampling"])) == set(control.DRAFT_SAMPLINGS)
    assert all(callable(getattr(system.payload, scheme)) for scheme in get_args(hints["payload"]))
    assert options.InputOptions().model == gelato_checkpoints.DEFAULT_MODEL
    settled = options.settle(options.SystemOptions())
    defaults = inspect.signature(system.preset).parameters
    assert {name: settled[name] for name in defaults} == {name: p.default for name, p in defaults.items()}
