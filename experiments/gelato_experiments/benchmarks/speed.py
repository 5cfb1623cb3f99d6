"""What a pair is worth: tokens per second by the clock, and modelled tokens per second and joules per token.

Every prompt is decoded by the target alone, with each fixed draft length, and by the adaptive
controller, one after the other, so that a machine that slows down slows them all. A figure is a sum
over prompts; a ratio compares sums of one run. One program serves all draft lengths, for budgets are data, and another
the adaptive controller: each pays for its own decisions alone.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from gelato_jax import control
from gelato_jax.decoding import DecodeSettings, Pair, autoregressive, generate, report
from gelato_jax.decoding.job import buffer_slots
from gelato_jax.system import System

ALONE = "target alone"
ADAPTIVE = "ratio"


@dataclasses.dataclass
class PolicySums:
    """One policy's sums over all prompts."""

    policy: str
    tokens: int = 0
    clock_s: float = 0.0
    modelled_tokens: int = 0  # of rounds: the prefill's token is not modelled with them
    modelled_s: float = 0.0
    energy_j: float = 0.0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    different: int = 0  # prompts whose text is not the target's own (greedy decoding)
    rates: list[float] = dataclasses.field(default_factory=list)  # tokens/s of each prompt, by the clock

    @property
    def tokens_per_s(self) -> float:
        """By the clock, prompts included."""
        return self.tokens / self.clock_s

    def figures(self, alone: "PolicySums") -> dict[str, Any]:
        """The row as plain numbers, its clock also against the target alone: of all prompts, and of the worst."""
        return {
            **dataclasses.asdict(self),
            "tokens_per_s": self.tokens_per_s,
            "speed_up": self.tokens_per_s / alone.tokens_per_s,
            "lowest": min(rate / own for rate, own in zip(self.rates, alone.rates, strict=True)),
            "modelled_tokens_per_s": _ratio(self.modelled_tokens, self.modelled_s),
            "energy_per_token_j": _ratio(self.energy_j, self.modelled_tokens),
            "tokens_per_round": _ratio(self.modelled_tokens, self.rounds),
            "acceptance_rate": _ratio(self.accepted, self.drafted),
        }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def run(
    pair: Pair,
    prompts: Sequence[str],
    *,
    settings: DecodeSettings,
    system: System,
    lengths: Sequence[int] = (0, 1, 2, 4, 8),
    adaptive: control.Controller | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PolicySums]:
    """Decode every prompt under every policy.

    Args:
        pair: draft and target.
        prompts: texts.
        settings: lengths and temperature; `max_draft_length` is at least the largest of `lengths`.
        system: the modelled world, and what the adaptive controller believes about costs.
        lengths: fixed draft lengths; 0 is a round without drafts.
        adaptive: the controller beside them, with priced exits; `ratio` without a cap if not given.
            What it learns on a prompt it keeps for the next.
        progress: told prompts done and in all.

    Returns:
        The target alone, each fixed length, the adaptive controller.
    """
    rows = [PolicySums(ALONE), *(PolicySums(f"static {length}") for length in lengths), PolicySums(ADAPTIVE)]
    controllers = (*map(control.static, lengths), control.ratio() if adaptive is None else adaptive)
    sessions: list[Any] = [None] * len(controllers)
    encoded = [pair.tokenizer.chat_prompt(prompt) for prompt in prompts]
    warming = _one_of_each_size(encoded, settings)
    for number, prompt in enumerate((*warming, *encoded)):
        ids, counts = [prompt], number >= len(warming)
        (expected,), seconds = _timed(lambda: autoregressive(pair, ids, settings=settings))  # noqa: B023
        if counts:
            _clock(rows[0], len(expected), seconds)
        for index, row in enumerate(rows[1:]):
            priced = row.policy == ADAPTIVE
            policy = {
                "controller": controllers[index],
                "length_exit": control.length_exits.priced() if priced else control.length_exits.none(),
                "system": system,
            }
            result, seconds = _timed(
                lambda: generate(pair, ids, settings=settings, session=sessions[index], **policy)  # noqa: B023
            )
            sessions[index] = result.session
            if counts:
                _add(row, report(result), seconds, result.tokens[0] != expected)
        progress(number + 1, len(warming) + len(prompts))
    return rows


def _one_of_each_size(prompts: Sequence[list[int]], settings: DecodeSettings) -> list[list[int]]:
    """The first prompt of each buffer's size: decoded ahead of the others they compile, and do not count."""
    found: dict[int, list[int]] = {}
    for prompt in prompts:
        found.setdefault(buffer_slots(len(prompt) + settings.max_new_tokens, settings.shapes), prompt)
    return list(found.values())


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def _clock(row: PolicySums, tokens: int, seconds: float) -> None:
    row.tokens += tokens
    row.clock_s += seconds
    row.rates.append(tokens / seconds)


def _add(row: PolicySums, figures: dict[str, Any], seconds: float, different: bool) -> None:
    """Add one decode."""
    _clock(row, figures["new_tokens"], seconds)
    row.modelled_tokens += figures["new_tokens"] - 1
    row.modelled_s += figures["modelled_s"]
    row.energy_j += figures["energy_j"]
    row.rounds += figures["rounds"]
    row.drafted += figures["drafted"]
    row.accepted += figures["accepted"]
    row.different += different
