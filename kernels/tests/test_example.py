"""The example of a loop that is not ours runs as it stands."""

import re
import runpy
from pathlib import Path


def test_speculative_decoding_drafts_pay(capsys):
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "speculative_decoding.py"), run_name="__main__")
    said = re.search(r"([\d.]+) tokens a round", capsys.readouterr().out)
    assert said is not None
    assert 1.5 < float(said[1]) < 5
