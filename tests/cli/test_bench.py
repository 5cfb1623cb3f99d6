"""`gelato bench` on a tiny pair."""

import dataclasses
import json

import jax
import pytest

from gelato_experiments.benchmarks import decode, law, lossless, profile
from gelato_experiments.prompts import read_prompts
from gelato_jax import autoregressive, meter
from gelato_jax.decoding import DecodeSettings
from gelato_kernels.bench import timing, workloads


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "3 1 4"}\n{"turns": ["1 5 9 2", "6"]}\n{"prompt": "7"}\n')
    return path


def test_lossless_compares_every_controller(gelato, prompt_file):
    code, out, _ = gelato(
        "bench", "lossless", "--prompts", str(prompt_file), "--max-new-tokens", "12", "--limit", "2", "--json", "-"
    )
    verdicts = json.loads(out)["verdicts"]
    assert code == 0
    assert [verdict["outcome"] for verdict in verdicts] == ["equal"] * 8
    assert {verdict["controller"] for verdict in verdicts} == set(lossless.controllers())


def test_a_wrong_text_is_told_from_a_tie(pair):
    prompt = [3, 1, 4]
    (text,) = autoregressive(pair, [prompt], settings=DecodeSettings(max_new_tokens=6))
    assert lossless.compare(pair.target, prompt, text, text, "static", 0).outcome == "equal"
    wrong = [*text[:2], (text[2] + 1) % 60, *text[3:]]
    verdict = lossless.compare(pair.target, prompt, text, wrong, "static", 0)
    assert (verdict.outcome, verdict.position) == ("different", 2)
    assert verdict.gap > verdict.tolerance > 0
    assert lossless.compare(pair.target, prompt, text, text[:-1], "static", 0).outcome == "different"
    head = "head.kernel"
    twin = pair.target.params[head].at[(text[2] + 1) % 60].set(pair.target.params[head][text[2]])
    tied = dataclasses.replace(pair.target, params={**pair.target.params, head: twin})
    assert lossless.compare(tied, prompt, text, wrong, "static", 0).outcome == "tie"


def test_decode_reports_every_figure(gelato, monkeypatch):
    def counted(*programs, calls):
        for program in programs:
            jax.block_until_ready(program())
        return [[float(number + 1)] for number, _ in enumerate(programs)]

    monkeypatch.setattr(decode, "alternate", counted)
    code, out, _ = gelato("bench", "decode", "--draft-length", "2", "--json", "-")
    figures = json.loads(out)
    assert code == 0
    assert set(figures) == {field.name for field in dataclasses.fields(decode.Result)}
    assert min(value for value in figures.values() if isinstance(value, float)) > 0
    assert set(figures["overhead_share"]) == {"greedy", "temperature", "top_p"}


def test_profile_tells_kinds_of_operations_and_bytes(gelato, monkeypatch, pair):
    monkeypatch.setattr(profile, "MEMORY_BYTES", 1 << 20)
    code, out, _ = gelato("bench", "profile", "--draft-length", "2", "--json", "-")
    figures = json.loads(out)
    assert code == 0
    step, round_ = figures["profiles"]
    for one in (step, round_):
        assert one["seconds"] > 0
        assert sum(kind["seconds"] for kind in one["kinds"]) > 0
        assert "while" not in {kind["name"] for kind in one["kinds"]}
    calls = [sum(kind["calls"] for kind in one["kinds"]) for one in (step, round_)]
    assert calls[1] > calls[0] > 1
    assert figures["weight_bytes"] == sum(
        array.nbytes for path, array in pair.target.params.items() if not path.startswith("embed.")
    )
    assert figures["share"] == pytest.approx(figures["read_bytes_per_s"] / figures["memory_bytes_per_s"])
    assert figures["peak_bytes"] > figures["kept_bytes"] > figures["weight_bytes"]


def test_scale_times_longer_texts_and_more_rows(gelato, monkeypatch):
    from gelato_experiments.benchmarks import scale

    monkeypatch.setattr(scale, "CONTEXTS", (8, 32, 4096))  # the last leaves the tiny model no room
    monkeypatch.setattr(scale, "ROWS", (1, 3))
    monkeypatch.setattr(scale, "CALLS", 1)
    code, output, _ = gelato("bench", "scale", "--json", "-")
    assert code == 0
    rows = json.loads(output)["rows"]
    assert [(row["context"], row["rows"]) for row in rows] == [(8, 1), (32, 1), (8, 3)]
    assert rows[0]["against_first"] == 1
    assert all(row["tokens_per_s"] > 0 and row["read_tokens_per_s"] > 0 for row in rows)


def test_instructions_are_told_by_opcode_or_kernel():
    program = """
      %fusion.3 = f32[1,5]{1,0} fusion(%a, %b), kind=kLoop, calls=%c
      %custom-call.7 = (f32[2]{0}, f32[3]{0}) custom-call(%x), custom_call_target="gelato_warp", api_version=4
      ROOT %while.1 = (s32[]) while(%t), condition=%p, body=%q
    """
    assert profile.kinds_of(program) == {"fusion.3": "fusion", "custom-call.7": "gelato_warp"}


def test_speed_compares_every_draft_length(gelato, prompt_file):
    arguments = ("--prompts", str(prompt_file), "--max-new-tokens", "10", "--json", "-")
    code, out, _ = gelato("bench", "speed", *arguments, "--system", "orin-nano-15w/5mhz-500m/h100-7b")
    rows = {row["policy"]: row for row in json.loads(out)["rows"]}
    assert code == 0
    assert list(rows) == ["target alone", *(f"static {length}" for length in (0, 1, 2, 3, 4, 6, 8)), "ratio"]
    # Greedy texts are the target's own, so every policy decodes as many tokens.
    assert {row["different"] for row in rows.values()} == {0}
    assert {row["tokens"] for row in rows.values()} == {rows["target alone"]["tokens"]}
    assert rows["target alone"]["speed_up"] == 1.0
    assert rows["target alone"]["modelled_tokens_per_s"] is None
    assert rows["static 0"]["drafted"] == 0
    assert rows["static 4"]["drafted"] > rows["static 1"]["drafted"] > 0
    assert rows["static 4"]["energy_per_token_j"] > 0


def test_a_world_that_is_not_three_names_is_one_line(gelato):
    code, _, error = gelato("bench", "speed", "--system", "orin-nano-15w")
    assert (code, error.count("\n")) == (2, 1)
    assert "DEVICE/LINK/EDGE" in error


def test_the_distribution_runs_every_payload_and_fails_a_bent_one(gelato, monkeypatch):
    monkeypatch.setattr(law, "PAYLOADS", law.PAYLOADS[:1])
    monkeypatch.setattr(law, "RUNS", 1)
    monkeypatch.setattr(law, "ROWS", 2_000)
    code, out, _ = gelato("bench", "lossless", "--distribution", "--json", "-")
    checks = json.loads(out)["checks"]
    assert code == 0
    assert [check["controller"] for check in checks] == ["ratio", "gelato", "static", "hf_schedule"]
    assert all(check["texts"] == 2_000 and check["z"] < law.LIMIT_Z for check in checks)
    monkeypatch.setattr(law, "LIMIT_Z", -100.0)
    assert gelato("bench", "lossless", "--distribution", "--json", "-")[0] == 1


def test_kernels_are_measured_without_a_model(gelato, monkeypatch):
    monkeypatch.setattr(workloads, "WORKLOADS", workloads.chosen(["gumbel_argmax"], quick=True))
    monkeypatch.setattr(timing, "FULL", timing.QUICK)
    code, out, _ = gelato("bench", "kernels", "--json", "-")
    report = json.loads(out)
    assert code == 0
    assert report["copy_gb_per_s"] > 0
    assert {row["implementation"]: row["status"] for row in report["rows"]} == {"xla": "ok", "reference": "ok"}
    assert all(row["ratio"] > 0 for row in report["rows"])
    code, out, _ = gelato("bench", "kernels")
    assert (code, "x textbook" in out) == (0, True)


@pytest.mark.parametrize("option", [("--model", "qwen2.5-0.5b"), ("--draft-length", "2"), ("--distribution",)])
def test_an_option_that_kernels_do_not_have_is_refused(gelato, option):
    code, _, error = gelato("bench", "kernels", *option)
    assert (code, error.count("\n")) == (2, 1)
    assert f"{option[0]} has no effect with bench kernels" in error


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "holds no prompt"), ("{}\n", "line 1"), ('{"prompt": 3}\n', "not a text"), ("nonsense\n", "line 1")],
)
def test_a_bad_prompt_file_is_one_line(gelato, tmp_path, text, fault):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    code, _, error = gelato("bench", "lossless", "--prompts", str(path))
    assert code == 2
    assert fault in error
    assert str(path) in error
    assert error.count("\n") == 1


def test_prompts_are_spread_over_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"prompt {number}" for number in range(10)))
    assert read_prompts(path, 5) == [f"prompt {number}" for number in (0, 2, 4, 6, 8)]
    assert len(read_prompts(path)) == 10


def test_power_is_measured_and_kept_as_a_device(gelato, tmp_path, monkeypatch):
    battery = tmp_path / "supplies" / "BAT1"
    battery.mkdir(parents=True)
    for file, text in (("type", "Battery"), ("status", "Discharging"), ("power_now", "3000000")):
        (battery / file).write_text(text)
    monkeypatch.setattr(meter.Battery.__init__, "__defaults__", (battery.parent,))
    device = tmp_path / "mine.json"
    options = ("--meter", "battery", "--seconds", "1", "--write-device", str(device))
    code, out, _ = gelato("bench", "power", *options, "--system", "orin-nano-15w/wifi/h100-7b", "--json", "-")
    figures = json.loads(out)
    assert code == 0
    assert figures["covers"] == "the whole machine, from its battery (BAT1)"
    for what in ("waiting", "draft step", "window of 5"):
        assert figures[what]["watts"] == pytest.approx(3.0, rel=0.05)
    assert figures["draft step"]["step_j"] < figures["window of 5"]["step_j"]
    assert figures["model"]["idle_w"] == pytest.approx(0.4)
    kept = json.loads(device.read_text())
    assert kept["draft_w"] == figures["draft step"]["watts"]
    code, out, _ = gelato("generate", "3 1 4", "--device", str(device), "--max-new-tokens", "4", "--json", "-")
    assert code == 0
    assert json.loads(out)["settings"]["device"] == str(device)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("speed", "--meter", "battery"), "--meter has no effect with bench speed"),
        (("decode", "--write-device", "x.json"), "--write-device has no effect"),
        (("power", "--seconds", "0.1"), "--seconds is 0.1, must be in 1..3600"),
        (("power", "--write-device", "mine.txt"), "must end in .json"),
        (("power", "--write-device", "absent/mine.json"), "absent/mine.json"),
        (("power", "--system", "wifi"), "give local, or DEVICE/LINK/EDGE"),
    ],
)
def test_power_refuses_before_it_loads(options, fault, gelato):
    code, _, error = gelato("bench", *options)
    assert (code, fault in error) == (2, True), error
