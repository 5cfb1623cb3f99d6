"""The examples of the README run, in order, as they stand."""

import re
from pathlib import Path

import jax


def test_every_example_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 5
    namespace: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md block {number}", "exec"), namespace)
    assert capsys.readouterr().out.count("\n") >= len(blocks) - 1
    jax.clear_caches()
