"""What longer texts and more rows cost the target alone: tokens of a prompt read, and tokens decoded, in a second.

Decoding is timed as the difference of two calls with few and many new tokens, so that a prompt and what a call costs
by itself are not in it. All cases take turns, and medians are reported.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

from gelato_jax.decoding import DecodeSettings, Pair, autoregressive

CONTEXTS = (64, 256, 1024, 4096)
"""Tokens of the text that is decoded behind."""
ROWS = (1, 4, 8, 16)
"""Texts at once, each of the shortest context."""
FEW, MANY = 4, 68
CALLS = 3
"""Timed calls of each kind."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        context: tokens of each text.
        rows: texts at once.
        read_tokens_per_s: of the prompts, a call's own cost and `FEW` tokens included.
        tokens_per_s: decoded, of all rows together.
        against_first: `tokens_per_s` in units of the first case's.
    """

    context: int
    rows: int
    read_tokens_per_s: float
    tokens_per_s: float
    against_first: float


def run(pair: Pair, *, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Row]:
    """Time a pair's target.

    Args:
        pair: whose target decodes; texts are of any ids, and do not end.
        progress: told calls done and in all.
    """
    pair = dataclasses.replace(pair, eos_ids=())
    contexts = [context for context in CONTEXTS if context + MANY <= pair.target.config.max_positions]
    cases = [(context, 1) for context in contexts] + [(contexts[0], rows) for rows in ROWS[1:]]
    seconds: dict[tuple[int, int, int], list[float]] = {}
    total = (CALLS + 1) * len(cases)
    for call in range(CALLS + 1):  # the first compiles
        for index, (context, rows) in enumerate(cases):
            progress(call * len(cases) + index, total)
            for tokens in (FEW, MANY):
                taken = _seconds(pair, context, rows, tokens)
                if call:
                    seconds.setdefault((context, rows, tokens), []).append(taken)
    progress(total, total)
    rates = {case: _rates(*case, seconds) for case in cases}
    return [Row(*case, *rates[case], rates[case][1] / rates[cases[0]][1]) for case in cases]


def _seconds(pair: Pair, context: int, rows: int, tokens: int) -> float:
    ids = pair.target.config.valid_outputs
    prompts = [[(7 * position + row) % ids for position in range(context)] for row in range(rows)]
    began = time.perf_counter()
    autoregressive(pair, prompts, settings=DecodeSettings(max_new_tokens=tokens))
    return time.perf_counter() - began


def _rates(context: int, rows: int, seconds: dict[tuple[int, int, int], list[float]]) -> tuple[float, float]:
    """Tokens read and decoded a second."""
    few, many = (seconds[context, rows, tokens] for tokens in (FEW, MANY))
    step_s = statistics.median(b - a for a, b in zip(few, many, strict=True)) / (MANY - FEW)
    return rows * context / statistics.median(few), rows / max(step_s, 1e-9)
