"""The code in README and CONTRIBUTING runs as it stands."""

import re
from pathlib import Path

import numpy as np

from gelato_jax import testing
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


def test_the_contributed_controller_runs():
    (example,) = python_blocks("CONTRIBUTING.md")
    namespace: dict = {}
    exec(compile(example, "CONTRIBUTING.md", "exec"), namespace)
    pair, settings = testing.tiny_pair(), DecodeSettings(max_new_tokens=12)
    result = generate(pair, [[1, 2, 3]], settings=settings, controller=namespace["aimd"](2))
    assert result.tokens == autoregressive(pair, [[1, 2, 3]], settings=settings)
    assert int(result.totals.drafted[0]) > 0
