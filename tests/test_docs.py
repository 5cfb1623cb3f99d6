"""The code in README and CONTRIBUTING runs as it stands."""

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gelato_experiments.methods import Scenario, Share, compare
from gelato_experiments.oracles import EntropyModel
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import payloads, system, testing
from gelato_jax.decoding import DecodeSettings, autoregressive, generate

REPOSITORY = Path(__file__).parents[1]


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / name).read_text("utf-8"), flags=re.DOTALL)


def test_the_readme_example_runs(capsys):
    (example,) = python_blocks("README.md")
    namespace: dict = {}
    exec(compile(example, "README.md", "exec"), namespace)
    result = namespace["result"]
    assert [len(row) <= 32 for row in result.tokens] == [True, True]
    assert (np.asarray(result.totals.energy_j.value) > 0).all()
    assert "sky" in capsys.readouterr().out.lower()


def contributed(index: int) -> dict:
    """What an example of CONTRIBUTING defines."""
    namespace: dict = {}
    exec(compile(python_blocks("CONTRIBUTING.md")[index], "CONTRIBUTING.md", "exec"), namespace)
    return namespace


def test_the_contributed_controller_runs():
    namespace = contributed(0)
    pair, settings = testing.tiny_pair(), DecodeSettings(max_new_tokens=12)
    result = generate(pair, [[1, 2, 3]], settings=settings, controller=namespace["aimd"](2))
    assert result.tokens == autoregressive(pair, [[1, 2, 3]], settings=settings)
    assert int(result.totals.drafted[0]) > 0


def test_the_contributed_method_is_judged(monkeypatch):
    monkeypatch.setitem(sys.modules, "gelato_jax.control.aimd", SimpleNamespace(aimd=contributed(0)["aimd"]))
    method = contributed(1)["METHOD"]
    model = EntropyModel(initial=[0.5, 0.5], transition=[[0.5, 0.5], [0.5, 0.5]], acceptance=[0.9, 0.3])
    texts = synthetic_recording(model, texts=8, positions=16, max_draft_length=4)
    scenario = Scenario(system=system.preset(), payload=payloads.candidates(8))
    (row,) = compare(method, texts, texts, scenario, [math.inf], Share(devices=8, rounds=20, warmup=5))
    assert row["keeps_cap"]
    assert 0 < row["draft_length"] <= 4
    assert len(python_blocks("CONTRIBUTING.md")[1].splitlines()) < 60
