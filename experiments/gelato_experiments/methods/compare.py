"""Tuning a method on half of the texts and judging it on the other half, under every cap on mean power."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gelato_experiments.methods.base import Method, Setting
from gelato_experiments.study import Row
from gelato_jax import simulation
from gelato_jax.decoding.records import Setup
from gelato_jax.payloads import Payload, Vocabularies
from gelato_jax.simulation import Recording
from gelato_jax.system import System

CAP_TOLERANCE = 0.005
"""Share by which mean power may exceed a cap and still count as keeping it."""
_T_95 = {2: 12.706, 4: 3.182, 8: 2.365, 16: 2.131}  # Student's t, two-sided 95 %, by the number of shares


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """The world that methods are compared in.

    Attributes:
        system: device, link, edge.
        payload: what all methods send; None: what each paper sends.
        vocabularies: the sizes that messages are counted by; the recording's if None.
        stream_length: tokens that the target is asked for at once where nothing is drafted; with 1, each costs a round
            trip.
    """

    system: System
    payload: Payload | None = None
    vocabularies: Vocabularies | None = None
    stream_length: int = 1

    def setup(self, recording: Recording, method: Method, cap_w: float, setting: Setting) -> Setup:
        """A method in this world, under a cap (inf: none)."""
        payload = method.payload() if self.payload is None else self.payload
        return simulation.make_setup(
            recording,
            method.build(cap_w, **setting).policy(payload, self.stream_length),
            self.system,
            vocabularies=self.vocabularies,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """How much is simulated: devices, rounds of each, rounds before that do not count, seed, shares for intervals."""

    devices: int = 64
    rounds: int = 1500
    warmup: int = 500
    seed: int = 0
    shares: int = 8


class Measured(NamedTuple):
    """Figures by share of the devices, each `[S, shares]`: sums over sums.

    The first three are `simulation.rates`: the seconds and joules of prompts are counted in them.
    """

    tokens_per_s: np.ndarray
    power_w: np.ndarray
    energy_per_token_j: np.ndarray
    draft_length: np.ndarray
    acceptance: np.ndarray
    passes_per_token: np.ndarray  # of the target
    round_s: np.ndarray  # mean seconds of a round, prompts apart
    prompt_per_token_s: np.ndarray  # of prompts, for each token of rounds
    prompt_per_token_j: np.ndarray


def measure(recording: Recording, settings: Sequence[Setup], effort: Share) -> Measured:
    """Simulate settings. No text is read by two shares of the devices, so intervals over shares are of texts.

    The same share meets the same texts and channels under every setting.
    """
    result = simulation.simulate(
        recording,
        settings,
        devices=effort.devices,
        rounds=effort.rounds,
        warmup=effort.warmup,
        seed=effort.seed,
        folds=effort.shares,
    )
    return measured(result, effort.shares)


def measured(result: simulation.Simulation, shares: int) -> Measured:
    """The figures of a simulation, its devices in equal shares."""
    names = ("tokens", "rounds", "drafted", "accepted", "passes", "time_s", "prompt_s", "prompt_j")
    sums = dict(zip(names, simulation.by_share(result, *names, shares=shares), strict=True))
    return Measured(
        *simulation.rates(result, shares=shares),
        draft_length=sums["drafted"] / sums["rounds"],
        acceptance=sums["accepted"] / np.maximum(sums["drafted"], 1),
        passes_per_token=sums["passes"] / sums["tokens"],
        round_s=sums["time_s"] / sums["rounds"],
        prompt_per_token_s=sums["prompt_s"] / sums["tokens"],
        prompt_per_token_j=sums["prompt_j"] / sums["tokens"],
    )


def mean_and_half(values: np.ndarray) -> tuple[float, float]:
    """Mean over independent shares, each of texts of its own, and half the width of its 95 % interval (Student's t).

    Args:
        values: `[shares]`, 2, 4, 8 or 16 of them.
    """
    return float(values.mean()), float(_T_95[len(values)] * values.std(ddof=1) / math.sqrt(len(values)))


def lead(theirs: Row, ours: Row) -> tuple[float, float]:
    """By how much one method of a cell is faster than another, and half the width of the 95 % interval.

    The same share of devices meets the same texts and channels under every method, so shares are compared one by one.
    """
    rates = (np.asarray(json.loads(row["tokens_per_s_shares"])) for row in (theirs, ours))
    return mean_and_half(next(rates) / next(rates) - 1.0)


def best_setting(rate: np.ndarray, over: np.ndarray) -> int:
    """The setting of most tokens per second that keeps its limits, or else the one that is nearest to it: an index.

    Args:
        rate: `[S]` tokens per second.
        over: `[S]` by what share each breaks the limit that it breaks most; negative where it keeps them all.
    """
    keeps = over <= CAP_TOLERANCE
    return int(np.where(keeps, rate, -np.inf).argmax() if keeps.any() else over.argmin())


def figures(found: Measured, number: int) -> Row:
    """Tokens per second, watts, joules a token of a setting, each with its `_half`; the first also by share, JSON."""
    row: Row = {}
    for name in ("tokens_per_s", "power_w", "energy_per_token_j"):
        row[name], row[f"{name}_half"] = mean_and_half(getattr(found, name)[number])
    row["tokens_per_s_shares"] = json.dumps(found.tokens_per_s[number].tolist())
    return row


def compare(
    method: Method,
    tuning: Recording,
    judging: Recording,
    scenario: Scenario,
    caps_w: Sequence[float],
    effort: Share = Share(),
) -> list[Row]:
    """One row for each cap: the setting of most tokens per second that keeps it in tuning, judged on other texts.

    A method whose every setting breaks the cap is judged with the one of least power, and its row says so.

    Args:
        method: what is judged.
        tuning: texts that its setting is chosen on.
        judging: other texts.
        scenario: the world.
        caps_w: caps on mean power; inf for none.
        effort: how much is simulated, for each setting.

    Returns:
        Rows of `method`, `cap_w`, `setting` (JSON), `tokens_per_s`, `power_w`, `energy_per_token_j` (prompts counted in
        all three), each with its `_half` of the interval, `tokens_per_s_shares` (JSON, see `lead`), `draft_length`,
        `acceptance`, and `keeps_cap` (on the texts judged).
    """
    tried = [(cap, setting) for cap in caps_w for setting in method.grid]
    tuned = measure(tuning, [scenario.setup(tuning, method, cap, setting) for cap, setting in tried], effort)
    rate, power = tuned.tokens_per_s.mean(axis=1), tuned.power_w.mean(axis=1)
    chosen = []
    for number, cap in enumerate(caps_w):
        own = slice(number * len(method.grid), (number + 1) * len(method.grid))
        chosen.append(method.grid[best_setting(rate[own], power[own] / cap - 1.0)])
    settings = [scenario.setup(judging, method, cap, s) for cap, s in zip(caps_w, chosen, strict=True)]
    judged = measure(judging, settings, effort)
    return [
        _row(method, cap, setting, judged, number)
        for number, (cap, setting) in enumerate(zip(caps_w, chosen, strict=True))
    ]


def _row(method: Method, cap_w: float, setting: Setting, judged: Measured, number: int) -> Row:
    row: Row = {"method": method.name, "cap_w": cap_w, "setting": json.dumps(dict(setting))}
    row |= figures(judged, number)
    row["draft_length"] = float(judged.draft_length[number].mean())
    row["acceptance"] = float(judged.acceptance[number].mean())
    row["keeps_cap"] = row["power_w"] <= cap_w * (1 + CAP_TOLERANCE)
    return row
