"""Which shape of draft is worth most, by what it would give and cost rather than by its loss.

Reads the `eval.json` of drafts that were trained alike (`gelato eval-draft --timed --out DIR`) and puts
beside each other, at the best fixed draft length of each exit: modelled tokens per second and joules
per token, on a device whose time and energy for a token follow the weights read; and tokens per second
by the clock of this machine, from the step times in the files (as shares of a target step) and the windows timed here.

    python -m gelato_experiments.studies.draft_shapes six=out/six/eval.json seven=out/seven/eval.json --out DIR
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from gelato_jax import payloads, system
from gelato_jax.types import AcceptanceForecast, CostTable

DEVICE, LINK, EDGE = "orin-nano-15w:smollm2-135m", "5mhz-500m", "h100-7b"
"""The device's figures were published for the target's own model: a draft costs its share of those weights."""
_VOCABULARY = 49_152  # of SmolLM2; sets the bits of an id


@dataclass(frozen=True, kw_only=True)
class DraftExit:
    """One exit of one draft, greedy or sampled, each figure at the draft length that is best for it."""

    draft: str
    layers: int
    law: str  # greedy or sampled: the column's name in tables that were written
    cost: float  # weights read, as a share of a target step
    acceptance: float
    modelled_length: int
    modelled_tokens_per_s: float
    energy_per_token_j: float
    clock_length: int | None
    clock_speed_up: float | None  # over the target alone


def rows(evaluations: Mapping[str, Mapping[str, Any]], window_s: Sequence[float] | None = None) -> list[DraftExit]:
    """Every exit of every draft.

    Args:
        evaluations: contents of `eval.json` by a name.
        window_s: seconds of the target's windows of 1, 2, ... tokens; without, nothing is said about the clock.
    """
    return [
        _row(name, evaluation, decoding, index, window_s)
        for name, evaluation in evaluations.items()
        for decoding in ("greedy", "sampled")
        if decoding in evaluation
        for index in range(len(evaluation["exits"]))
    ]


def _row(
    name: str, evaluation: Mapping[str, Any], decoding: str, index: int, window_s: Sequence[float] | None
) -> DraftExit:
    average = evaluation[decoding]["average"]
    tokens = np.array([1.0, *average["tokens_per_round"][index]])  # by draft length, from 0
    acceptance, cost = average["acceptance"][index], evaluation["cost"]["weights"][index]
    cost_table = _cost_table(cost, acceptance, len(tokens) - 1)
    rate = tokens / np.asarray(cost_table.time_s)
    best = int(rate.argmax())
    length = speed_up = None
    if window_s is not None and "measured" in evaluation["cost"]:
        # A share of the target's step, since seconds that were taken at different times cannot be compared.
        drafts_s = evaluation["cost"]["measured"]["share"][index] * window_s[0] * np.arange(len(tokens))
        gain = tokens * window_s[0] / (drafts_s + np.asarray(window_s[: len(tokens)]))
        length, speed_up = int(gain.argmax()), float(gain.max())
    return DraftExit(
        draft=name,
        layers=evaluation["exits"][index],
        law=decoding,
        cost=cost,
        acceptance=acceptance,
        modelled_length=best,
        modelled_tokens_per_s=float(rate[best]),
        energy_per_token_j=float(np.asarray(cost_table.energy_j)[best] / tokens[best]),
        clock_length=length,
        clock_speed_up=speed_up,
    )


def _cost_table(cost: float, acceptance: float, longest: int) -> CostTable:
    world = system.preset(DEVICE, LINK, EDGE)
    return world.cost_table(
        world.link.channel(),
        payloads.candidates(32),
        payloads.Vocabularies.whole(_VOCABULARY),
        work=cost,
        catch_up=0.0,
        acceptance=AcceptanceForecast.independent(acceptance, longest),
        support=1.0,
    )


def time_windows(target: str, longest: int) -> list[float]:
    """Seconds of the target's windows of 1 to `longest` tokens, as a decode runs them."""
    from gelato_checkpoints.load import load_checkpoint
    from gelato_checkpoints.pair import load_model
    from gelato_jax.decoding import Shapes
    from gelato_jax.decoding.local import window_seconds
    from gelato_jax.system import Edge

    model = load_model(load_checkpoint(target))
    if model.config.saves_tokens:
        return window_seconds(model, longest, range(1, longest + 1))
    times = {size: window_seconds(model, size)[0] for size in Shapes(max_draft_length=longest - 1).windows}
    return [float(seconds) for seconds in Edge.measured(times).window_s[1 : longest + 1]]


def markdown(table: Sequence[DraftExit]) -> str:
    """The table, readable."""
    heads = "draft | layers | law | cost | acceptance | modelled tokens/s (length) | J/token | by the clock (length)"
    lines = [f"| {heads} |", "|---" * 8 + "|"]
    for row in table:
        clock = "-" if row.clock_speed_up is None else f"{row.clock_speed_up:.2f} x ({row.clock_length})"
        lines.append(
            f"| {row.draft} | {row.layers} | {row.law} | {row.cost:.3f} | {row.acceptance:.3f} "
            f"| {row.modelled_tokens_per_s:.1f} ({row.modelled_length}) | {row.energy_per_token_j:.4f} | {clock} |"
        )
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class DraftShapes:
    """Compare drafts by what they would give and cost."""

    evaluations: tyro.conf.Positional[tuple[str, ...]]
    """NAME=FILE of each draft's eval.json."""
    out: Path
    """Folder for table.md, table.csv and frontier.png."""
    target: str = "smollm2-135m"
    """Whose windows are timed."""

    def run(self) -> None:
        """Write table and figure."""
        from gelato_experiments.draft_figures import frontier

        evaluations = {
            name: _read(name, path) for name, _, path in (entry.partition("=") for entry in self.evaluations)
        }
        longest = max(
            len(evaluation["greedy"]["average"]["tokens_per_round"][0]) for evaluation in evaluations.values()
        )
        table = rows(evaluations, time_windows(self.target, longest + 1))
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "table.md").write_text(_heading(self.target) + markdown(table), "utf-8")
        with (self.out / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(table[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in table)
        frontier(evaluations, self.out / "frontier.png")
        print(markdown(table))


def _heading(target: str) -> str:
    return (
        f"Modelled: {DEVICE} over {LINK} to {EDGE}, `candidates` payload. Clock: step times of this machine "
        f"({jax.devices()[0].device_kind}, jax {jax.__version__}), target {target}, padded windows; "
        "a round is its draft steps and its window.\n\n"
    )


def _read(name: str, path: str) -> dict[str, Any]:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise SystemExit(f"gelato: {name}={path}: not readable ({error}); give NAME=FILE of an eval.json") from None
