"""A user's mistake: one line that names the option, its value and the fix; exit code 2; nothing loaded."""

import inspect
from typing import get_args, get_type_hints

import pytest

import gelato_checkpoints
from gelato_jax import control, payloads, system
from gelato_jax.cli import choices, options


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
        (["hi", "--controller", "gelato"], ["--controller", "gelato", "--power-budget-w", "--energy-budget-j"]),
        (["hi", "--controller", "gelato_estimated"], ["gelato_estimated", "--power-budget-w", "--energy-budget-j"]),
        (
            ["hi", "--controller", "gelato", "--power-budget-w", "2", "--energy-budget-j", "0.5"],
            ["--power-budget-w is 2", "--energy-budget-j 0.5", "leave one out"],
        ),
        (["hi", "--energy-budget-j", "1"], ["--energy-budget-j", "ratio", "gelato or gelato_estimated"]),
        (["hi", "--controller", "gelato", "--energy-budget-j", "-1"], ["--energy-budget-j", "-1", "at least 0"]),
        (["hi", "--controller", "gelato", "--power-budget-w", "0.1"], ["0.1", "W", "raise"]),
        (["hi", "--controller", "hf_schedule", "--draft-length", "0"], ["initial", "0"]),
        (["hi", "--controller", "ucb_specstop", "--penalty-weight", "1"], ["--penalty-weight", "ucb_specstop"]),
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


def completed(controller, **options_given):
    options_given = {"controller": controller, **options_given}
    return options.complete(options.ControlOptions(**options_given), options.SystemOptions())


def test_controllers_have_their_own_defaults_and_take_their_own_options():
    assert [completed(name)["draft_length"] for name in ("static", "hf_schedule", "ratio")] == [4, 5, None]
    assert [completed(name)["penalty_weight"] for name in ("ratio", "gelato_estimated", "static")] == [10.0, 10.0, None]
    assert completed("ratio")["power_budget_w"] is None
    for field, names in options.CONTROLLER_FIELDS.items():
        assert any(options.taken_as(field, controller) in names for controller in control.CONTROLLERS)


@pytest.mark.parametrize("name", ["gelato", "gelato_estimated"])
@pytest.mark.parametrize(("field", "budget"), [("power_budget_w", 2.0), ("energy_budget_j", 0.25)])
def test_both_forms_of_a_budget(name, field, budget):
    values = options.complete(
        *(group() for group in (options.InputOptions, options.TextOptions, options.PayloadOptions)),
        options.ControlOptions(controller=name, **{field: budget}),
        options.SystemOptions(),
    )
    params = choices.build(values)[1]["controller"].params
    assert float(getattr(params, field)) == budget


def test_lists_are_those_of_the_registries():
    """The lists of rules are read from them; that of payloads is a copy, for options.py imports nothing heavy."""
    hints = {**get_type_hints(options.ControlOptions), **get_type_hints(options.PayloadOptions)}
    assert set(get_args(hints["controller"])) == set(control.CONTROLLERS)
    assert set(get_args(hints["length_exit"])) == set(control.LENGTH_EXITS)
    assert set(get_args(hints["depth_exit"])) == set(control.DEPTH_EXITS)
    assert set(get_args(hints["draft_sampling"])) == set(control.DRAFT_SAMPLINGS)
    assert all(callable(getattr(payloads, scheme)) for scheme in get_args(hints["payload"]))
    assert options.InputOptions().model == gelato_checkpoints.DEFAULT_MODEL
    completed = options.complete(options.SystemOptions())
    defaults = inspect.signature(system.preset).parameters
    assert {name: completed[name] for name in defaults} == {name: p.default for name, p in defaults.items()}
