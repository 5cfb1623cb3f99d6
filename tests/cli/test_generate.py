"""`gelato generate` on a tiny pair: what it writes, and where."""

import json
import signal

import pytest

import gelato_checkpoints
import gelato_jax
from gelato_jax.cli import decode as decode_file
from gelato_jax.cli.main import run

PROMPT = "3 1 4 1 5"


@pytest.fixture
def ids(pair):
    """The text that every controller must give."""
    settings = gelato_jax.DecodeSettings(max_new_tokens=24)
    return gelato_jax.autoregressive(pair, [PROMPT], settings=settings, raw=True)[0]


def report_of(out: str) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(out, parse_constant=refuse)


def test_text_and_summary_go_apart(gelato, ids):
    code, out, error = gelato("generate", PROMPT, "--max-new-tokens", "24")
    assert code == 0
    shown = ids if ids[-1] != 60 else ids[:-1]
    assert out.split() == [str(token) for token in ids] or out.split() == [str(token) for token in shown]
    assert out.endswith("\n")
    here, modelled = error.split("modelled: orin-nano-15w over 5mhz-500m-60ms to rtx3090-7b")
    assert "measured on this machine" in here
    assert "J/token" in modelled
    assert "J/token" not in here


def test_a_cache_may_be_narrow(gelato, monkeypatch):
    seen, stream = [], gelato_jax.stream

    def watched(pair, *arguments, **choices):
        seen.append(pair)
        return stream(pair, *arguments, **choices)

    monkeypatch.setattr(gelato_jax, "stream", watched)
    for cache in ("auto", "bfloat16"):
        code, out, _ = gelato("generate", PROMPT, "--max-new-tokens", "4", "--cache", cache, "--json", "-")
        assert (code, report_of(out)["settings"]["cache"]) == (0, cache)
    assert [pair.target.bind().cache_dtype.name for pair in seen] == ["float32", "bfloat16"]


def test_json_on_standard_output_alone(gelato, ids):
    code, out, error = gelato("generate", PROMPT, "--max-new-tokens", "24", "--json", "-", "--power-budget-w", "inf")
    assert code == 0
    report = report_of(out)
    assert report["token_ids"] == ids
    assert report["text"].split() == [str(token) for token in ids]
    assert report["prompt_tokens"] == 5
    assert report["new_tokens"] == len(ids) == 24
    assert report["end"] == "length"
    assert report["accepted"] <= report["drafted"]
    assert report["tokens_per_round"] == pytest.approx((len(ids) - 1) / report["rounds"])
    assert report["acceptance_rate"] == pytest.approx(report["accepted"] / report["drafted"])
    assert report["energy_per_token_j"] == pytest.approx(report["energy_j"] / (len(ids) - 1))
    assert report["modelled_tokens_per_s"] == pytest.approx((len(ids) - 1) / report["modelled_s"])
    assert report["wall_tokens_per_s"] == pytest.approx((len(ids) - 1) / report["wall_s"])
    assert report["prefill_s"] > 0
    assert report["controller"] == "ratio"
    assert report["settings"]["device"] == "orin-nano-15w"
    assert report["settings"]["power_budget_w"] is None  # infinity is no JSON
    assert set(report["versions"]) == {"gelato_jax", "jax", "flax", "python"}
    expected = {"first_token_s", "compile_s", "uplink_bits_per_token", "downlink_bits_per_token"}
    assert expected | {"mean_queue_j", "final_queue_j", "prefill_j"} <= set(report)
    assert "measured" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--controller", "static", "--draft-length", "3"],
        ["--controller", "hf_schedule", "--length-exit", "svip"],
        ["--controller", "gelato", "--power-budget-w", "2", "--payload", "seeded"],
        ["--max-draft-length", "0"],
        ["--payload", "top_p", "--payload-top-p", "0.5", "--link", "wifi-140ms"],
    ],
    ids=lambda arguments: arguments[1],
)
def test_choices_never_change_greedy_text(gelato, ids, arguments):
    code, out, error = gelato("generate", PROMPT, "--max-new-tokens", "24", "--json", "-", *arguments)
    assert code == 0, error
    assert report_of(out)["token_ids"] == ids


def test_sampling_repeats_with_its_seed(gelato):
    def draw(seed: str) -> list[int]:
        options = ["--temperature", "1", "--top-p", "0.9", "--top-k", "20", "--seed", seed, "--json", "-"]
        return report_of(gelato("generate", PROMPT, "--max-new-tokens", "24", *options)[1])["token_ids"]

    assert draw("1") == draw("1")
    assert draw("1") != draw("2")  # 24 tokens of 20 candidates: equal only if the seed is ignored


def test_prompt_file_is_one_prompt(gelato, ids, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT.replace(" ", "\n"), encoding="utf-8")
    code, out, _ = gelato("generate", "--prompt-file", str(path), "--max-new-tokens", "24", "--quiet")
    assert code == 0
    assert out.split() == [str(token) for token in ids]


def test_stop_string_ends_text_and_decode(gelato, ids):
    words = [str(token) for token in ids]
    stop = f"{words[8]} {words[9]}"
    code, out, _ = gelato("generate", PROMPT, "--max-new-tokens", "24", "--stop", "none", "--stop", stop, "--json", "-")
    report = report_of(out)
    assert code == 0
    assert report["end"] == "stop"
    assert report["text"] == " ".join(words)[: " ".join(words).index(stop)]
    kept = report["token_ids"]
    assert kept == ids[: report["new_tokens"]]
    assert stop in " ".join(map(str, kept))
    assert stop not in " ".join(map(str, kept[:-1]))  # the last id is the one that completed it


def test_a_stop_and_the_limit_in_one_round_are_a_stop(gelato, ids):
    """Drafts agree here, so one round reaches both."""
    options = ["--controller", "static", "--draft-length", "8", "--json", "-"]
    stop = " ".join(map(str, ids[:2]))
    report = report_of(gelato("generate", PROMPT, "--max-new-tokens", "3", "--stop", stop, *options)[1])
    assert (report["end"], report["text"], report["token_ids"], report["rounds"]) == ("stop", "", ids[:2], 1)
    assert report_of(gelato("generate", PROMPT, "--max-new-tokens", "3", *options)[1])["end"] == "length"


def test_quiet_and_silent_json_say_nothing(gelato, tmp_path):
    path = tmp_path / "report.json"
    code, out, error = gelato("generate", PROMPT, "--max-new-tokens", "3", "--quiet", "--json", str(path))
    assert (code, error) == (0, "")
    assert len(out.split()) == 3
    assert report_of(path.read_text())["new_tokens"] == 3


def test_ctrl_c_keeps_what_was_decoded(gelato, ids, monkeypatch):
    see = decode_file._Watch.see

    def see_and_interrupt(self, info, wall_s):
        signal.raise_signal(signal.SIGINT)
        return see(self, info, wall_s)

    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in a shell's background
    monkeypatch.setattr(decode_file._Watch, "see", see_and_interrupt)
    code, out, _ = gelato("generate", PROMPT, "--max-new-tokens", "24", "--json", "-")
    report = report_of(out)
    assert code == 130
    assert report["end"] == "interrupted"
    assert report["rounds"] == 1
    assert 2 <= report["new_tokens"] < 24
    assert report["token_ids"] == ids[: report["new_tokens"]]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_last_round_cuts_nothing(gelato, ids, monkeypatch):
    see = decode_file._Watch.see

    def see_and_interrupt(self, info, wall_s):
        signal.raise_signal(signal.SIGINT)
        return see(self, info, wall_s)

    monkeypatch.setattr(decode_file._Watch, "see", see_and_interrupt)
    code, out, _ = gelato("generate", PROMPT, "--max-new-tokens", "2", "--json", "-")
    assert (code, report_of(out)["end"], report_of(out)["token_ids"]) == (0, "length", ids[:2])


def test_models_and_presets(gelato, monkeypatch):
    code, out, _ = gelato("models")
    assert code == 0
    assert "smollm2-135m (default)" in out
    monkeypatch.setattr(gelato_checkpoints, "shipped_drafts", lambda: {"qwen2.5-7b": None})
    rows = {line.split()[0]: line for line in gelato("models")[1].splitlines()}
    assert [name for name, line in rows.items() if " ships " in line] == ["qwen2.5-7b"]
    code, out, _ = gelato("presets")
    assert code == 0
    assert all(name in out for name in ("orin-nano-15w", "5mhz-500m", "rtx3090-7b", "#"))


def test_reader_that_leaves_is_no_error(monkeypatch):
    def leave(self):
        raise BrokenPipeError

    from gelato_jax.cli.models import Models

    monkeypatch.setattr(Models, "run", leave)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert run(["models"]) == 141
