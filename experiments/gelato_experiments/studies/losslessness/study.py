"""Losslessness of sampled text (claim T4): its distribution under every payload, controller and exit; what bends it.

A tiny pair of six tokens, whose texts can be enumerated, writes many of four tokens; `benchmarks.law` says how the
joint distribution of three tokens is checked. Sound decoders must pass, decoders with one mistake each must not.
"""

import dataclasses
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gelato_experiments.benchmarks import law, law_mutants
from gelato_experiments.study import Progress, Row
from gelato_jax import control
from gelato_jax.decoding.programs import decode

CONTROLLERS = ("ratio", "gelato", "static", "hf_schedule")
LENGTH_EXITS = ("bucket", "priced", "none", "adaedl", "svip", "confidence")
DEPTH_EXITS = ("entropy", "priced", "fixed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How many texts.

    Attributes:
        rows: texts of one program run.
        runs: runs of each check.
        mutant_runs: runs of each mutant: small mistakes need many texts.
        payloads: schemes that are checked.
        mutants: mistakes that are tried.
        compile_cheaply: programs that compile in half the time and run in twice: for few texts.
        seed: of the first check; every run draws texts of its own.
    """

    rows: int = law.ROWS
    runs: int = law.RUNS
    mutant_runs: int = law.RUNS
    payloads: tuple[str, ...] = tuple(make().scheme for make in law.PAYLOADS)
    mutants: tuple[str, ...] = law_mutants.MUTANTS
    compile_cheaply: bool = False
    seed: int = 0


QUICK = Settings(
    rows=20_000,
    runs=1,
    mutant_runs=1,
    payloads=("full", "top_p", "candidates", "seeded"),
    mutants=tuple(name for name in law_mutants.MUTANTS if name != "ratio x 1.05"),  # which takes 200,000 texts
    compile_cheaply=True,
)
FULL = Settings()


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Every check, then every mutant."""
    pair = law.tiny_pair()
    joint = law.joint_law(law.target_logits(pair), law.SETTINGS)
    checks = list(_checks(settings))
    total, seeds, rows = len(checks) + len(settings.mutants), itertools.count(settings.seed, law.RUNS), []
    level: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": 0}}
    options = level if settings.compile_cheaply else {}
    program = jax.jit(inspect.unwrap(decode), static_argnames="shapes", **options)
    for names, choices in checks:
        progress("decoding texts", len(rows), total)
        asked: dict[str, Any] = {"runs": settings.runs, "seed": next(seeds), "rows": settings.rows}
        counts, totals = law.count_texts(pair, choices, program=program, **asked)
        rows.append({**names, **_figures(counts, totals, joint)})
    with law_mutants.mutated(**options) as program:
        for mutant in settings.mutants:
            progress("decoding texts", len(rows), total)
            asked = {"runs": settings.mutant_runs, "seed": next(seeds), "rows": settings.rows}
            counts, totals = law.count_texts(pair, law_mutants.rules(mutant), program=program, **asked)
            names = {"kind": "mutant", "payload": "full", "controller": "static", "length_exit": "confidence"}
            rows.append({**names, "depth_exit": "fixed", "mutant": mutant, **_figures(counts, totals, joint)})
    progress("decoding texts", total, total)
    return rows


def _checks(settings: Settings) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Payload by controller; exits take turns, so that each meets every controller."""
    # Numbers under which each rule stops some drafts of the tiny pair and lets others go on.
    controllers = (
        control.ratio(power_budget_w=1.5, penalty_weight=0.05),
        control.gelato(energy_budget_j=0.2, penalty_weight=0.05),
        control.static(2),
        control.hf_schedule(2),
    )
    exits = control.length_exits
    lengths = (
        exits.bucket(1.3, 0.2),
        exits.priced(),
        exits.none(),
        exits.adaedl(0.2, 0.35),
        exits.svip(0.15, 0.5),
        exits.confidence(0.4),
    )
    depths = (control.depth_exits.entropy(1.3), control.depth_exits.priced(), control.depth_exits.fixed())
    sent = [payload for make in law.PAYLOADS if (payload := make()).scheme in settings.payloads]
    for number, (payload, index) in enumerate(itertools.product(sent, range(len(controllers)))):
        length = (number + number // len(controllers)) % len(lengths)
        depth = number % len(depths)
        # Chosen by traced indices: one program a payload.
        choices = {
            "controller": control.select_controller(controllers, index),
            "length_exit": control.select_length_exit(lengths, length),
            "depth_exit": control.select_depth_exit(depths, depth),
            "draft_sampling": control.draft_sampling.entropy(1.5, 0.6, 1.0),
            "payload": payload,
        }
        names: Row = {"kind": "sound", "payload": payload.scheme, "controller": CONTROLLERS[index]}
        yield {**names, "length_exit": LENGTH_EXITS[length], "depth_exit": DEPTH_EXITS[depth], "mutant": None}, choices


def _figures(counts: np.ndarray, totals: Any, joint: np.ndarray) -> Row:
    """How far the texts are from the distribution; distances are of tokens 2-4, all of them drawn in rounds."""
    texts, expected = int(counts.sum()), joint.sum(axis=0)
    drafted = int(totals.drafted.sum())
    return {
        "texts": texts,
        "z": law.z_score(counts, joint),
        "tv": float(np.abs(counts.sum(axis=0) / texts - expected).sum() / 2),
        # E|X - np| of a binomial count by its normal limit, summed over the cells.
        "tv_floor": float(np.sqrt(2 * expected * (1 - expected) / (np.pi * texts)).sum() / 2),
        "drafted_per_round": drafted / int(totals.rounds.sum()),
        "accepted_share": int(totals.accepted.sum()) / max(drafted, 1),
    }
