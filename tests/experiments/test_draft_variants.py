"""The study of variants: what it asks of the commands, what it does not do twice, and its curve by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from gelato_experiments.studies.draft_shapes import study as draft_shapes
from gelato_experiments.studies.draft_variants import study as draft_variants
from gelato_jax.training.corpus import Conversation
from gelato_jax.training.ids import read_ids, write_ids


def evaluation(greedy, sampled):
    """What an `eval.json` holds, as far as the study reads it."""
    decodings = {"greedy": greedy, "sampled": sampled}
    averages = {
        decoding: {"average": {"acceptance": [value], "tokens_per_round": [[1.5]]}}
        for decoding, value in decodings.items()
    }
    return {"exits": [6], "cost": {"weights": [0.2]}, **averages}


@pytest.fixture
def corpus(tmp_path) -> Path:
    empty = np.zeros((5, 0))
    texts = [Conversation(tokens=np.full(5, n), answer_start=2, temperature=0.0, top_ids=empty, top_log_probs=empty)
             for n in range(40)]  # fmt: skip
    write_ids(tmp_path / "corpus.npz", texts)
    return tmp_path / "corpus.npz"


def test_variants_share_their_text_and_nothing_is_done_twice(corpus, tmp_path, monkeypatch):
    calls = []

    def gelato(command, options, *flags):
        calls.append((command, options, flags))
        folder = Path(options["out"])
        folder.mkdir(parents=True)
        name = "run.json" if command == "train-draft" else "eval.json"
        (folder / name).write_text(json.dumps({"tokens": 20} if command == "train-draft" else evaluation(0.3, 0.2)))

    monkeypatch.setattr(draft_variants, "_call", gelato)
    monkeypatch.setattr(draft_shapes, "time_windows", lambda target, longest: [1.0] * longest)
    full = tmp_path / "full"
    full.mkdir()
    (full / "run.json").write_text(json.dumps({"tokens": 2000}))
    (full / "eval_head_alone.json").write_text(json.dumps(evaluation(0.7, 0.3)))
    study = draft_variants.DraftVariants(
        prompts=tmp_path / "p.txt", work=tmp_path / "work", out=tmp_path / "out", corpus=corpus, full=full,
        only=("four", "six"), recipe=("epochs=1",),
    )  # fmt: skip
    study.run()
    trained = {options["out"]: options for command, options, _ in calls if command == "train-draft"}
    six, four = (trained[str(tmp_path / "work" / name)] for name in ("six", "four"))
    assert [int(c.tokens[0]) for c in read_ids(Path(six["corpus"]))] == [0, 10, 20, 30]
    assert four["corpus"] == str(tmp_path / "work" / "six" / "training" / "corpus")
    assert (four["layers"], four["epochs"], six["epochs"]) == ("0,1,28,29", "1", "1")
    assert all(flags == ("--head-alone", "--timed") for command, _, flags in calls if command == "eval-draft")
    assert len(calls) == 4
    study.run()
    assert len(calls) == 4
    table = (tmp_path / "out" / "scaling.md").read_text()
    assert "| 20 | 0.300 | 0.200 | - |" in table
    assert "| 2000 | 0.700 | 0.300 | +0.200 / +0.050 |" in table  # two decades
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 1000


def test_an_unknown_variant_is_one_line(tmp_path):
    study = draft_variants.DraftVariants(prompts=tmp_path, work=tmp_path, out=tmp_path, only=("seven",))
    with pytest.raises(SystemExit, match="--only has 'seven', there are six, four"):
        study.run()
