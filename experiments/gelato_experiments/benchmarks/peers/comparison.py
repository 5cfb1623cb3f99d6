"""Decoding by turns, and what is made of it.

Every prompt is decoded greedily by each engine in turn, so that a machine that slows down slows them all, and each is
compared with ours on that prompt. Times include the reading of the prompt.
"""

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gelato_experiments.benchmarks.peers.engine import Engine

REST_S = 0.25
"""Between two engines: threads of one wait for work by spinning, a fifth of a second in some runtimes (KMP_BLOCKTIME),
and would take from the next one's time."""


@dataclasses.dataclass
class Decodes:
    """What one engine made of every prompt."""

    engine: str
    texts: list[list[int]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Tokens per second of every prompt."""
        return [len(text) / seconds for text, seconds in zip(self.texts, self.seconds, strict=True)]


@dataclasses.dataclass(frozen=True)
class Row:
    """One engine's figures.

    Attributes:
        engine: its name.
        tokens_per_s: median over prompts, their reading included.
        against_ours: median over prompts of its rate in units of ours on the same prompt.
        lowest: the least of these ratios.
        highest: the largest of them.
        tokens: generated, of all prompts.
        equal: prompts whose tokens are ours.
        first_differences: of every prompt, the index of the first token that is not ours; None where all are.
    """

    engine: str
    tokens_per_s: float
    against_ours: float
    lowest: float
    highest: float
    tokens: int
    equal: int
    first_differences: tuple[int | None, ...]


def run(
    engines: Sequence[Engine],
    prompts: Sequence[Sequence[int]],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Decodes]:
    """Decode every prompt with every engine.

    Args:
        engines: in the order of their turns.
        prompts: token ids.
        progress: told decodes done and in all.

    Returns:
        One of each engine, prompts in order.
    """
    # The first and the longest once ahead, not counted: they compile, and touch every page of the weights.
    ahead = [prompts[0]] if len(prompts[0]) == max(map(len, prompts)) else [prompts[0], max(prompts, key=len)]
    results, turns = [Decodes(engine.name) for engine in engines], [*ahead, *prompts]
    for number, ids in enumerate(turns):
        # Shuffled: whoever follows the largest model pays for that, and shall not be always the same.
        for index, turn in enumerate(random.Random(number).sample(range(len(engines)), len(engines))):
            progress(number * len(engines) + index, len(turns) * len(engines))
            result = results[turn]
            time.sleep(REST_S)
            start = time.perf_counter()
            text = engines[turn].decode(ids)
            seconds = time.perf_counter() - start
            if number >= len(ahead):
                result.texts.append(text)
                result.seconds.append(seconds)
    progress(len(turns) * len(engines), len(turns) * len(engines))
    return results


def compare(results: Sequence[Decodes]) -> list[Row]:
    """Figures of every engine against the first, which is ours.

    Args:
        results: of the same prompts.

    Returns:
        A row for each, in order; ratios are taken prompt by prompt.
    """
    ours = results[0]
    rows = []
    for result in results:
        ratios = [rate / own for rate, own in zip(result.rates, ours.rates, strict=True)]
        apart = tuple(first_difference(text, own) for text, own in zip(result.texts, ours.texts, strict=True))
        rows.append(
            Row(
                engine=result.engine,
                tokens_per_s=statistics.median(result.rates),
                against_ours=statistics.median(ratios),
                lowest=min(ratios),
                highest=max(ratios),
                tokens=sum(map(len, result.texts)),
                equal=apart.count(None),
                first_differences=apart,
            )
        )
    return rows


def first_difference(text: Sequence[int], other: Sequence[int]) -> int | None:
    """Index of the first token at which two texts part, or at which one of them ends; None if they are equal."""
    shared = min(len(text), len(other))
    position = next((index for index in range(shared) if text[index] != other[index]), shared)
    return None if position == len(text) == len(other) else position


def table(rows: Sequence[Row]) -> list[str]:
    """Lines to read: a heading and an engine each."""
    width = max(len("engine"), *(len(row.engine) for row in rows))
    lines = [f"{'engine':{width}}  tokens/s   against ours   over prompts   same text   else parts at token (median)"]
    for row in rows:
        apart = [position for position in row.first_differences if position is not None]
        parts = f"{statistics.median(apart):g}" if apart else "-"
        lines.append(
            f"{row.engine:{width}}  {row.tokens_per_s:8.1f}   {row.against_ours:10.3f} x   "
            f"{row.lowest:.2f} to {row.highest:.2f}   {row.equal:2d} of {len(row.first_differences):2d}    {parts}"
        )
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """A bar for every engine, its ratio beside it, as a PNG.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from gelato_experiments.figures import BLUE, GREY, new_figure, save_png, style

    with style():
        figure, panels = new_figure(panel_width=7.2, panel_height=0.9 + 0.34 * len(rows))
        axes: Any = panels[0, 0]
        names, rates = [row.engine for row in rows], [row.tokens_per_s for row in rows]
        ours = rows[0].engine.split(",")[0]
        bars = axes.barh(names, rates, color=[BLUE if name.startswith(ours) else GREY for name in names])
        axes.bar_label(bars, [f"{row.tokens_per_s:.0f}   {row.against_ours:.2f} x" for row in rows], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.22)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("tokens/s, the median of prompts, their reading included")
        save_png(figure, path)
