"""`gelato eval-draft`: how often a draft is right, where, and what it costs."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gelato_jax.errors import GelatoError

_DISTRIBUTIONS = ("greedy", "sampled")
_SHOWN_LENGTHS = (1, 2, 3, 4, 6, 8, 12)  # draft lengths of the printed table


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalDraft:
    """Measure a draft on text that its target writes: acceptance by exit, category and entropy, and its cost."""

    target: str = "smollm2-135m"
    """The target: a name from `gelato models`, hf:OWNER/NAME, a folder or a .gguf file."""
    draft: str | None = None
    """The draft: as --target, a folder that `gelato train-draft` wrote, or layers:K; the target's own if not given."""
    prompts: Path | None = None
    """Prompt file, .jsonl or a prompt a line; the set that ships with the package if not given."""
    new_tokens: int = 128
    """Tokens of an answer at most. Answers are written once for a target and kept in the cache folder."""
    limit: int | None = None
    """Prompts at most, spread over the file."""
    seed: int = 0
    """Of the sampled answers, and of the half of the prompts that the calibration is fitted to."""
    head_alone: bool = False
    """Leave the draft's odds of repeated tokens out: what its weights know by themselves."""
    timed: bool = False
    """Also time one-row steps of draft and target on this machine."""
    json: str | None = None
    """Write all figures to this file; - is standard output."""
    out: Path | None = None
    """Folder for eval.json and the figures."""

    def run(self) -> int:
        """Measure, print, write."""
        from contextlib import ExitStack

        from gelato_jax.cli.output import JsonFile
        from gelato_jax.cli.progress import Progress

        _check(self)
        with ExitStack() as stack:
            files = [stack.enter_context(JsonFile(self.json))]
            if self.out is not None:
                self.out.mkdir(parents=True, exist_ok=True)
                files.append(stack.enter_context(JsonFile(str(self.out / "eval.json"))))
            with Progress() as progress:
                report = _measure(self, progress.stage)
            for file in files:
                file.write(report)
        if self.out is not None:
            from gelato_experiments.draft_figures import draw

            draw(report, self.out)
        if self.json != "-":
            print("\n".join(summary(report)))
        return 0


def _check(options: EvalDraft) -> None:
    """Refuse before anything is loaded."""
    if options.limit is not None and options.limit < 1:
        raise GelatoError(f"--limit is {options.limit}, must be at least 1")
    if options.new_tokens < 2:
        raise GelatoError(f"--new-tokens is {options.new_tokens}, must be at least 2: the first is never drafted")
    if not 0 <= options.seed < 2**31:
        raise GelatoError(f"--seed is {options.seed}, must be in 0..{2**31 - 1}")
    if options.out is not None and importlib.util.find_spec("matplotlib") is None:
        raise GelatoError("--out draws with matplotlib, which is missing: pip install 'gelato-jax[experiments]'")


def _measure(options: EvalDraft, stage: Any) -> dict[str, Any]:
    from gelato_experiments.prompts import read_categories

    prompts = read_categories(options.prompts, options.limit)

    import gelato_checkpoints
    from gelato_jax.cli.cache import keep_programs
    from gelato_jax.decoding import with_weights
    from gelato_jax.training.answers import write_answers
    from gelato_jax.training.draft_cost import measured_shares
    from gelato_jax.training.metrics import evaluate

    keep_programs()
    # In floats: figures that are kept must come again on a machine without compiled kernels.
    pair = gelato_checkpoints.load_pair(options.target, options.draft, weights="float", progress=stage)
    draft = with_weights(pair.draft)
    draft = dataclasses.replace(draft, repeats=None) if options.head_alone else draft
    answers = []
    for distribution, temperature in zip(_DISTRIBUTIONS, (0.0, 1.0), strict=True):
        answers += write_answers(
            pair,
            prompts,
            temperature=temperature,
            new_tokens=options.new_tokens,
            seed=options.seed,
            cache=gelato_checkpoints.cache_directory() / "answers",
            progress=lambda name, done, total, distribution=distribution: stage(f"{name}, {distribution}", done, total),
        )
    report = {
        "target": options.target,
        "draft": options.draft,
        "prompts": "shipped" if options.prompts is None else options.prompts.name,
        "num_prompts": len(prompts),
        "new_tokens": options.new_tokens,
        "seed": options.seed,
        "repeats": draft.repeats is not None,
        **evaluate(pair.target, draft, answers, seed=options.seed, progress=stage),
    }
    if options.timed:
        stage("time", 0, 0)
        report["cost"]["measured"] = measured_shares(pair.target, draft)
    return report


def summary(report: dict[str, Any]) -> list[str]:
    """The report as lines: a table by category, then rounds, calibration and cost."""
    exits = report["exits"]
    columns = [(distribution, index) for distribution in _DISTRIBUTIONS for index in range(len(exits))]
    rows = [("category", "prompts", *(f"{distribution} @{exits[index]}" for distribution, index in columns))]
    for name, row in report["greedy"]["categories"].items():
        cells = [report[distribution]["categories"].get(name, {}).get("acceptance") for distribution, _ in columns]
        rows.append((name, str(row["prompts"]), *_numbers(cells, columns)))
    averages = [report[distribution]["average"]["acceptance"] for distribution, _ in columns]
    prompts = report["greedy"]["overall"]["prompts"]
    rows.append(("average of categories", str(prompts), *_numbers(averages, columns)))
    lines = [*_aligned(rows), "", "greedy: agreement on greedy text; sampled: acceptance at temperature 1; @layers", ""]
    heads = [("tokens per round, drafts of", *map(str, _SHOWN_LENGTHS))]
    rounds = [
        (
            f"{distribution} @{exits[index]}",
            *(
                f"{report[distribution]['average']['tokens_per_round'][index][length - 1]:.2f}"
                for length in _SHOWN_LENGTHS
            ),
        )
        for distribution, index in columns
    ]
    lines += [*_aligned(heads + rounds), "", *_aligned(_calibration_rows(report, columns)), ""]
    return lines + _aligned(_cost_rows(report)) + _depth_lines(report)


def _calibration_rows(report: dict[str, Any], columns: Sequence[tuple[str, int]]) -> list[tuple[str, ...]]:
    heads = ("calibration error", "curve", "classes", "the draft's own", "curve fitted to the other half")
    rows: list[tuple[str, ...]] = [heads]
    for distribution, index in columns:
        checks, fields = report[distribution]["reliability"], report[distribution]["calibration"]
        shown = (("held_out", "curve"), ("held_out", "classes"), ("stored", "curve"))
        errors = [f"{checks[part][fit]['error'][index]:.3f}" if checks[part] else "-" for part, fit in shown]
        formula = f"min(1, {fields['scale'][index]:.3f} exp(-{fields['decay'][index]:.3f} H))"
        rows.append((f"{distribution} @{report['exits'][index]}, prompts held out", *errors, formula))
    return rows


def _cost_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    cost = report["cost"]
    rows = [("cost, share of a target step", *(f"@{depth}" for depth in report["exits"]))]
    rows.append(("weights read", *(f"{share:.3f}" for share in cost["weights"])))
    rows.append(("bytes read", *(f"{share:.3f}" for share in cost["bytes"])))
    if "measured" in cost:
        rows.append(("time measured", *(f"{share:.3f}" for share in cost["measured"]["share"])))
    return rows


def _depth_lines(report: dict[str, Any]) -> list[str]:
    """What choosing the depth of each token saves, at the threshold where it saves most."""
    lines = []
    for distribution in _DISTRIBUTIONS:
        rows = [row for row in report[distribution]["depth"] if row["saves"] is not None]
        if rows:
            best = max(rows, key=lambda row: row["saves"])
            lines.append(
                f"depth by token, {distribution}: {best['saves']:+.1%} saved against a single depth at acceptance "
                f"{best['acceptance']:.3f} (leave below {best['threshold']:.2f} nats)"
            )
    return ["", *lines] if lines else []


def _numbers(cells: Sequence[Sequence[float] | None], columns: Sequence[tuple[str, int]]) -> list[str]:
    return ["-" if cell is None else f"{cell[index]:.3f}" for cell, (_, index) in zip(cells, columns, strict=True)]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
