"""Train drafts of several shapes alike on a share of a corpus, measure them, and put them beside each other.

Every variant is the shipped recipe with something changed. A finished training or measurement is kept
in the work folder, and one that was killed goes on, so the same command continues after a stop.

    python -m gelato_experiments.studies.draft_variants --prompts FILE --work DIR --out DIR
"""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gelato_experiments.studies.draft_shapes.study import DraftShapes
from gelato_jax.training.ids import read_ids, write_ids

_GELATO = (sys.executable, "-c", "from gelato_jax.cli.main import main; main()")
_RECIPE = {
    "layers": "0,1,2,27,28,29",
    "exits": "3,6",
    "vocabulary": "8192",
    "epochs": "4",
    "learning-rate": "2e-3",
    "tokens-per-batch": "2048",  # half the full run's: a small share still takes some two hundred steps
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What differs from the shipped recipe."""

    options: Mapping[str, str]
    """Options of `gelato train-draft`."""
    every: int = 10
    """Learns from one conversation of so many."""


VARIANTS: dict[str, Variant] = {
    "six": Variant(options={}),
    "four": Variant(options={"layers": "0,1,28,29", "exits": "2,4"}),
    "eight": Variant(options={"layers": "0,1,2,3,26,27,28,29", "exits": "4,8"}),
    "first-six": Variant(options={"layers": "0,1,2,3,4,5"}),
    "one-exit": Variant(options={"exits": "6"}),
    "4096-ids": Variant(options={"vocabulary": "4096"}),
    "16384-ids": Variant(options={"vocabulary": "16384"}),
    "overlap": Variant(options={"overlap-weight": "0.5"}),
    "seed-1": Variant(options={"seed": "1"}),
    "seed-2": Variant(options={"seed": "2"}),
    "third": Variant(options={}, every=3),
}
"""Shapes, a loss, the spread over seeds, and a point of the curve against text."""


@dataclass(frozen=True, kw_only=True)
class DraftVariants:
    """Train, measure and compare variants of a draft."""

    prompts: Path
    """Prompt file that all are measured on."""
    work: Path
    """Folder of the trainings and of each variant's eval.json; what is there already is not done again."""
    out: Path
    """Folder for table.md, table.csv and frontier.png."""
    corpus: Path = Path("experiments/corpora/smollm2-135m.npz")
    """Token ids of conversations, as `gelato train-draft` leaves them in corpus.npz."""
    target: str = "smollm2-135m"
    """The model that wrote them."""
    only: tuple[str, ...] = ()
    """Names of variants; all if not given."""
    full: Path | None = None
    """Folder of a run of the recipe on all of the text: run.json, and as eval_head_alone.json what
    `gelato eval-draft --head-alone` said of it. The last point of the curve against text."""
    recipe: tuple[str, ...] = ()
    """More options of `gelato train-draft` for every variant, as NAME=VALUE: other text wants other settings."""

    def run(self) -> None:
        """Do what is not done yet, then write the table."""
        names = self.only or tuple(VARIANTS)
        if unknown := [name for name in names if name not in VARIANTS]:
            raise SystemExit(f"gelato: --only has {unknown[0]!r}, there are {', '.join(VARIANTS)}")
        for name in names:
            self._train(name)
            self._evaluate(name)
        evaluations = tuple(f"{name}={self.work / name / 'eval' / 'eval.json'}" for name in names)
        DraftShapes(evaluations=evaluations, out=self.out, target=self.target).run()
        self._draw_scaling(names)

    def _draw_scaling(self, names: Sequence[str]) -> None:
        """What more text and more draft are worth: scaling.png and scaling.md."""
        from gelato_experiments.draft_figures import scaling

        evaluations = {name: _read(self.work / name / "eval" / "eval.json") for name in names}
        recipe = [name for name in names if not VARIANTS[name].options]
        by_text = {_read(self.work / name / "run.json")["tokens"]: evaluations[name] for name in recipe}
        if self.full is not None:
            by_text[_read(self.full / "run.json")["tokens"]] = _read(self.full / "eval_head_alone.json")
        tenths = {name: evaluation for name, evaluation in evaluations.items() if VARIANTS[name].every == Variant.every}
        if by_text:
            scaling(by_text, tenths, self.out / "scaling.png")
            (self.out / "scaling.md").write_text(scaling_table(by_text), "utf-8")

    def _train(self, name: str) -> None:
        folder, variant = self.work / name, VARIANTS[name]
        if (folder / "run.json").exists():
            return
        # The first variant with a share of the text records what the target thinks of it; the others read that.
        recorder = next(other for other, candidate in VARIANTS.items() if candidate.every == variant.every)
        if name == recorder:
            corpus = self._ids(variant.every)
        else:
            self._train(recorder)
            corpus = self.work / recorder / "training" / "corpus"
        common = dict(entry.split("=", 1) for entry in self.recipe)
        places = {"target": self.target, "corpus": str(corpus), "out": str(folder)}
        _call("train-draft", {**_RECIPE, **common, **variant.options, **places})

    def _evaluate(self, name: str) -> None:
        # The head alone: odds of repeats are fitted to held-out text, of which a share of a corpus has too little.
        out = self.work / name / "eval"
        if not (out / "eval.json").exists():
            options = {"target": self.target, "draft": str(self.work / name), "prompts": str(self.prompts)}
            _call("eval-draft", {**options, "out": str(out)}, "--head-alone", "--timed")

    def _ids(self, every: int) -> Path:
        """File with one conversation of `every`, spread over the corpus."""
        path = self.work / f"corpus-{every}.npz"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            write_ids(path, read_ids(self.corpus)[::every])
        return path


def scaling_table(by_text: Mapping[int, Mapping[str, Any]]) -> str:
    """Acceptance of the deepest exit against tokens of text, and what ten times the text adds from row to row."""
    lines = ["| tokens | greedy | temperature 1 | per tenfold text |", "|---|---|---|---|"]
    before: tuple[int, list[float]] | None = None
    for tokens, evaluation in sorted(by_text.items()):
        values = [evaluation[decoding]["average"]["acceptance"][-1] for decoding in ("greedy", "sampled")]
        gain = "-"
        if before is not None:
            decades = math.log10(tokens / before[0])
            gain = " / ".join(f"{(b - a) / decades:+.3f}" for a, b in zip(before[1], values, strict=True))
        lines.append(f"| {tokens} | {values[0]:.3f} | {values[1]:.3f} | {gain} |")
        before = tokens, values
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def _call(command: str, options: Mapping[str, str], *flags: str) -> None:
    """Run a `gelato` command, its progress on this process's standard error."""
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    print(f"gelato {command} {' '.join([*words, *flags])}", file=sys.stderr, flush=True)
    subprocess.run([*_GELATO, command, *words, *flags], check=True, stdout=sys.stderr)
