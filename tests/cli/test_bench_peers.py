"""`gelato bench peers` where no other engine is installed, its statistics, and the engines' adapters on stand-ins."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gelato_experiments.benchmarks.peers import comparison, engine, llama, ours
from gelato_experiments.benchmarks.peers.comparison import Decodes
from gelato_experiments.benchmarks.peers.engine import Engine, Request
from gelato_experiments.benchmarks.peers.worker import Worker
from gelato_jax import system
from gelato_jax.decoding import DecodeSettings, autoregressive, local
from gelato_jax.errors import GelatoError


@pytest.fixture
def alone(monkeypatch):
    """No engine of others is installed."""
    find = importlib.util.find_spec
    theirs = ("llama_cpp", "torch", "transformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in theirs else find(name, *rest))


@pytest.fixture(autouse=True)
def restless(monkeypatch):
    monkeypatch.setattr(comparison, "REST_S", 0.0)


def test_ours_runs_where_nothing_else_is_installed(gelato, alone, tmp_path, monkeypatch):
    # The command alone: what there is to compile is compiled by the next test.
    stand_ins = [Engine("gelato, target alone", list), Engine("gelato, ratio", list)]
    monkeypatch.setattr(ours, "engines", lambda pair, measure, settings: stand_ins)
    monkeypatch.setattr(local, "measure_local_system", lambda pair, shapes: system.preset())
    prompts, plot = tmp_path / "prompts.txt", tmp_path / "peers.png"
    prompts.write_text("3 1 4\n1 5 9 2 6\n5\n")
    options = ("--prompts", str(prompts), "--limit", "2", "--max-new-tokens", "8")
    code, out, error = gelato("bench", "peers", *options, "--plot", str(plot), "--json", "-")
    figures = json.loads(out)
    assert code == 0
    assert [row["engine"] for row in figures["rows"]] == ["gelato, target alone", "gelato, ratio"]
    assert figures["rows"][0]["against_ours"] == 1.0
    assert [row["equal"] for row in figures["rows"]] == [2, 2]
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in figures["seconds"].values())
    assert figures["threads"] >= 1
    assert figures["cpu"]
    assert figures["versions"]["jax"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "llama-cpp-python is not installed" in error
    assert "torch and transformers are not installed" in error
    assert error.count('pip install "gelato-jax[bench]"') == 2
    assert figures["left_out"] == [line.removeprefix("gelato: ") for line in error.splitlines() if "left out" in line]


def test_ours_decode_the_target_s_own_text(pair):
    settings = DecodeSettings(max_draft_length=1, max_new_tokens=8)
    alone, *speculative = ours.engines(pair, lambda pair: system.preset(), settings)
    prompt = [3, 1, 4, 3, 1, 4, 3, 1]
    (expected,) = autoregressive(pair, [prompt], settings=settings)
    assert alone.decode(prompt) == expected
    assert len(speculative) == 2
    for ours_too in speculative:
        assert ours_too.decode(prompt) == ours_too.decode(prompt) == expected


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--limit", "0"), "--limit is 0"),
        (("--threads", "0"), "--threads is 0, must be in 1.."),
        (("--threads", "100000"), "--threads is 100000, must be in 1.."),
        (("--plot", "bars.svg"), "name it bars.png"),
        (("--max-new-tokens", "0"), "max_new_tokens is 0"),
    ],
)
def test_mistakes_are_one_line(gelato, options, fault):
    code, _, error = gelato("bench", "peers", *options)
    assert (code, error.count("\n")) == (2, 1)
    assert fault in error


@pytest.mark.parametrize("option", ["--threads", "--plot"])
def test_options_of_peers_are_refused_elsewhere(gelato, option):
    code, _, error = gelato("bench", "speed", option, "2")
    assert (code, error.count("\n")) == (2, 1)
    assert f"{option} has no effect with bench speed" in error


def test_figures_are_medians_and_ratios_prompt_by_prompt():
    own = Decodes("gelato, target alone", [[1] * 10, [2] * 10, [3] * 10], [1.0, 2.0, 5.0])  # 10, 5, 2 tokens/s
    theirs = Decodes("other", [[1] * 10, [2, 2, 7], [3] * 10], [2.0, 0.3, 10.0])  # 5, 10, 1 tokens/s
    first, second = comparison.compare([own, theirs])
    assert (first.tokens_per_s, first.against_ours, first.equal, first.tokens) == (5.0, 1.0, 3, 30)
    assert (second.tokens_per_s, second.equal, second.tokens) == (5.0, 2, 23)
    assert (second.lowest, second.against_ours, second.highest) == pytest.approx((0.5, 0.5, 2.0))
    assert second.first_differences == (None, 2, None)
    lines = comparison.table([first, second])
    assert len(lines) == 3
    assert "0.500 x" in lines[2]
    assert "2 of  3" in lines[2]


@pytest.mark.parametrize(
    ("text", "other", "position"),
    [([], [], None), ([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 2], 2)],
)
def test_the_first_difference(text, other, position):
    assert comparison.first_difference(text, other) == position


def test_engines_take_turns_and_the_first_and_longest_prompts_warm_up():
    turns, told = [], []
    engines = [Engine(name, lambda ids, name=name: turns.append((name, len(ids))) or [len(ids)]) for name in "ab"]
    results = comparison.run(engines, [[1], [1, 2, 3], [1, 2]], progress=lambda done, total: told.append((done, total)))
    assert [size for _, size in turns] == [size for size in (1, 3, 1, 3, 2) for _ in "ab"]
    rounds = ["".join(name for name, _ in turns[at : at + 2]) for at in range(0, 10, 2)]
    assert set(rounds) == {"ab", "ba"}  # nobody always comes first
    assert [result.texts for result in results] == [[[1], [3], [2]]] * 2
    assert all(len(result.seconds) == 3 for result in results)
    assert told == [(done, 10) for done in range(11)]


class FakeLlama:
    """Counts up from a prompt's last id, for ever; remembers what it was told."""

    def __init__(self, path, **options):
        self.options, self.resets = options, 0

    def reset(self):
        self.resets += 1

    def generate(self, ids, **options):
        assert options == {"temp": 0.0, "repeat_penalty": 1.0}
        token = ids[-1]
        while True:
            token += 1
            yield token


def test_llama_cpp_stops_behind_an_end_token_or_at_the_limit(monkeypatch, tmp_path):
    made = []
    module = SimpleNamespace(Llama=lambda *args, **options: made.append(FakeLlama(*args, **options)) or made[-1])
    speculative = SimpleNamespace(LlamaPromptLookupDecoding=lambda num_pred_tokens: ("lookup", num_pred_tokens))
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_speculative", speculative)
    request = Request(max_new_tokens=4, eos_ids=(7,), threads=2, longest=5)
    plain, lookup = llama.load({"Q4_1": tmp_path / "model.gguf"}, request)
    assert (plain.name, lookup.name) == ("llama.cpp Q4_1", "llama.cpp Q4_1, lookup")
    assert plain.decode([1, 5]) == [6, 7]
    assert plain.decode([10]) == [11, 12, 13, 14]
    assert [model.options["draft_model"] for model in made] == [None, ("lookup", engine.LOOKUP)]
    assert made[0].resets == 2
    assert made[0].options["n_threads"] == made[0].options["n_threads_batch"] == 2
    assert made[0].options["n_ctx"] >= 5 + 4


@pytest.fixture
def stand_ins(monkeypatch):
    """Engines that a process of its own can import, as it inherits where this one looks for modules."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("stand_in_engines")


@pytest.mark.parametrize(
    ("load", "line"),
    [
        ("dying", "its process died (SIGSEGV); build it again"),
        ("broken", "it cannot be loaded (RuntimeError: libllama.so: cannot open)"),
        ("without", "no floats; name others"),
    ],
)
def test_what_cannot_be_loaded_is_left_out(stand_ins, load, line):
    with pytest.raises(engine.LeftOut, match=f"^{re.escape(line)}$"):
        Worker(getattr(stand_ins, load), advice="build it again").engines()


def test_a_worker_decodes_until_it_dies(stand_ins):
    (counter,) = Worker(stand_ins.counting, 2, 7, advice="build it again").engines()
    assert (counter.name, counter.decode((3, 4)), counter.decode([5])) == ("counting", [6], [7])
    line = (
        "counting: it cannot decode a prompt of 0 tokens (IndexError: list index out of range); leave out longer ones"
    )
    with pytest.raises(GelatoError, match=re.escape(line)):
        counter.decode([])
    with pytest.raises(GelatoError, match=re.escape("counting: its process died (SIGSEGV); build it again")):
        counter.decode([7])
