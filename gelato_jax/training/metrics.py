"""How good a draft is: acceptance at each exit, by category and by entropy, and the tokens that a round would give."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gelato_jax.decoding import DraftModel
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model
from gelato_jax.training.calibrate import (
    CLASSES,
    Distribution,
    calibration_lists,
    chances,
    class_of,
    fit_calibration,
    joined,
    outcomes,
    reliability,
    split_prompts,
)
from gelato_jax.training.draft_cost import weight_shares
from gelato_jax.training.states import Answer
from gelato_jax.training.trace import Trace, trace_answers
from gelato_jax.types import Calibration

LONGEST_DRAFT = 12
"""Draft lengths 1 to this are reported."""


def evaluate(
    target: Model,
    draft: DraftModel,
    answers: Sequence[Answer],
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure a draft on the target's answers.

    Args:
        target: the model that wrote them.
        draft: what is measured.
        answers: greedy ones, ones sampled at temperature 1, or both (`answers.write_answers`).
        seed: of the prompts that a calibration is fitted to; the other half is held out.
        progress: told what is done, how many of it, and of how many.

    Returns:
        Numbers, lists and dictionaries, ready for JSON: `exits`, `cost`, and for each distribution that has
        answers (`greedy`: the share of the draft's likeliest tokens that are the target's; `sampled`:
        acceptance at temperature 1) what `measure` and, as `depth`, `depth_choices` give. The calibration in
        it is of the fitted half.
    """
    traces = trace_answers(target, draft, answers, progress=lambda done, total: progress("run draft", done, total))
    report: dict[str, Any] = {
        "exits": list(draft.model.config.exits),
        "outputs": draft.model.config.valid_outputs,
        "cost": weight_shares(target, draft),
    }
    for distribution in ("greedy", "sampled"):
        chosen = [
            index for index, answer in enumerate(answers) if (answer.temperature == 0) == (distribution == "greedy")
        ]
        if chosen:
            categories = [answers[index].category for index in chosen]
            stored = getattr(draft.calibration, distribution)
            members = [traces[index] for index in chosen]
            report[distribution] = measure(members, categories, distribution, seed=seed, stored=stored)
            report[distribution]["depth"] = depth_choices(
                joined(members), np.asarray(draft.work, np.float64), distribution
            )
    return report


def measure(
    traces: Sequence[Trace],
    categories: Sequence[str],
    distribution: Distribution,
    *,
    seed: int = 0,
    stored: Calibration | None = None,
) -> dict[str, Any]:
    """Sum up answers of one distribution.

    Args:
        traces: one for each answer.
        categories: of each answer.
        distribution: `greedy` for greedy text, `sampled` for text sampled at temperature 1.
        seed: of the split of the prompts.
        stored: the calibration that the draft has, to be checked on all prompts.

    Returns:
        `categories`: for each `prompts`, `tokens`, `acceptance` [X], `tokens_per_round` [X][12] (every token at
        that exit, draft lengths 1 to 12). `average`: the last two averaged over categories, each counting the
        same. `overall`: over all tokens. `by_entropy`: for each exit, ten classes of equal counts. `calibration`:
        fitted to half of the prompts. `reliability`: of both fits, on the `fitted` and the `held_out` prompts; of
        the `stored` calibration on all of them. None where there is nothing to check.

    Raises:
        GelatoError: no answer has a token that a round may draft.
    """
    filled = [index for index, trace in enumerate(traces) if len(trace.entropy)]
    if not filled:
        raise GelatoError(
            f"no {distribution} answer has a second token, the first that a round may draft; take longer answers"
        )
    traces, categories = [traces[index] for index in filled], [categories[index] for index in filled]
    rounds = expected_rounds([chances(trace, distribution) for trace in traces])
    names = sorted(set(categories))
    parts = {name: [index for index, category in enumerate(categories) if category == name] for name in names}
    table = {name: _sum_up(traces, rounds, members, distribution) for name, members in parts.items()}
    averaged = ("acceptance", "tokens_per_round")
    average = {key: np.mean([row[key] for row in table.values()], axis=0).tolist() for key in averaged}
    fitted, held_out = split_prompts(len(traces), seed)
    calibration = fit_calibration([traces[index] for index in fitted], distribution)

    def check(checked: Calibration | None, members: Sequence[int]) -> dict[str, Any] | None:
        if checked is None or not len(members):
            return None
        return reliability(checked, [traces[index] for index in members], distribution)

    return {
        "categories": table,
        "average": average,
        "overall": _sum_up(traces, rounds, range(len(traces)), distribution),
        "by_entropy": by_entropy(joined(traces), distribution),
        "calibration": calibration_lists(calibration),
        "reliability": {
            "fitted": check(calibration, fitted.tolist()),
            "held_out": check(calibration, held_out.tolist()),
            "stored": check(stored, range(len(traces))),
        },
    }


def rates(trace: Trace, distribution: Distribution) -> np.ndarray:
    """Mean outcome at each exit `[X]`, over the tokens that reached it."""
    reached = np.asarray(trace.reached, np.float64)
    return (outcomes(trace, distribution) * reached).sum(axis=0) / np.maximum(reached.sum(axis=0), 1.0)


def _sum_up(
    traces: Sequence[Trace], rounds: np.ndarray, members: Sequence[int], distribution: Distribution
) -> dict[str, Any]:
    tokens = sum(len(traces[index].entropy) for index in members)
    return {
        "prompts": len(members),
        "tokens": tokens,
        "acceptance": rates(joined([traces[index] for index in members]), distribution).tolist(),
        "tokens_per_round": (tokens / rounds[list(members)].sum(axis=0)).tolist(),
    }


def expected_rounds(chances: Sequence[np.ndarray], longest: int = LONGEST_DRAFT) -> np.ndarray:
    """Rounds that the texts would take with drafts of 1 to `longest` tokens, all at one exit: `[A, X, longest]`.

    The text of a speculative decode has the target's distribution, and given the text each token was drafted
    and accepted with the chance min(1, q/p) of that token (agreement where decoding is greedy). A round
    begins after the first token that was not, or after a whole draft and its bonus token: the chance that
    a round begins at a position follows from those before it.

    Args:
        chances: `[N, X]` for each of A texts.
        longest: draft length.
    """
    size = max(len(rows) for rows in chances)
    padded = np.zeros((len(chances), size + longest, chances[0].shape[1]))
    inside = np.zeros((len(chances), size, 1))
    for text, rows in enumerate(chances):
        padded[text, : len(rows)], inside[text, : len(rows)] = rows, 1.0
    totals = []
    for length in range(1, longest + 1):
        begins = np.zeros((len(chances), size + longest + 1, padded.shape[2]))
        begins[:, 0] = 1.0
        for position in range(size):
            alive = begins[:, position]
            for drafted in range(position, position + length):
                begins[:, drafted + 1] += alive * (1.0 - padded[:, drafted])
                alive = alive * padded[:, drafted]
            begins[:, position + length + 1] += alive
        totals.append((begins[:, :size] * inside).sum(axis=1))
    return np.stack(totals, axis=-1)


def depth_choices(
    trace: Trace, work: np.ndarray, distribution: Distribution, thresholds: int = 19
) -> list[dict[str, float]]:
    """What it costs to choose each token's depth by its checks, against one depth for all.

    A token leaves at the first exit whose check says less than a threshold. One depth for all gets the
    same mean acceptance at the cost on the line between two exits, a share of the texts at each.
    (Keys and values are those of full depth: a draft that leaves early sees slightly worse ones.)

    Args:
        trace: of the texts.
        work: `[X]` cost of leaving at each exit, checks and head included, as a share of the deepest.
        distribution: which outcome counts.
        thresholds: how many are tried, at quantiles of what the first check says.

    Returns:
        For each `threshold` (nats) the mean `acceptance`, the mean `work`, the `single_depth_work` of the same
        acceptance (None where no mixture of depths reaches it) and the share that choosing `saves` of it.
    """
    outcome, probe, deepest = outcomes(trace, distribution), np.asarray(trace.probe), len(work) - 1
    if deepest == 0:
        return []
    singles = outcome.mean(axis=0)
    rows = []
    for threshold in np.quantile(probe[:, 0], np.arange(1, thresholds + 1) / (thresholds + 1)):
        leaves = np.where((probe[:, :-1] < threshold).any(axis=1), (probe[:, :-1] < threshold).argmax(axis=1), deepest)
        acceptance = float(np.take_along_axis(outcome, leaves[:, None], axis=1).mean())
        cost = float(work[leaves].mean())
        reached = singles.min() <= acceptance <= singles.max() and bool((np.diff(singles) > 0).all())
        single = float(np.interp(acceptance, singles, work)) if reached else None
        rows.append(
            {
                "threshold": float(threshold),
                "acceptance": acceptance,
                "work": cost,
                "single_depth_work": single,
                "saves": None if single is None else 1.0 - cost / single,
            }
        )
    return rows


def by_entropy(trace: Trace, distribution: Distribution, classes: int = CLASSES + 2) -> list[list[dict[str, float]]]:
    """For each exit, classes of entropy of equal counts: bounds and mean of H (nats), mean outcome, tokens."""
    outcome, tables = outcomes(trace, distribution), []
    for index in range(outcome.shape[1]):
        entropy = np.asarray(trace.entropy[:, index], np.float64)
        edges = np.quantile(entropy, np.arange(1, classes) / classes)
        members = class_of(edges, entropy)
        rows = []
        for number in np.unique(members):
            inside = members == number
            rows.append(
                {
                    "lowest": float(entropy[inside].min()),
                    "highest": float(entropy[inside].max()),
                    "entropy": float(entropy[inside].mean()),
                    "acceptance": float(outcome[inside, index].mean()),
                    "tokens": int(inside.sum()),
                }
            )
        tables.append(rows)
    return tables
