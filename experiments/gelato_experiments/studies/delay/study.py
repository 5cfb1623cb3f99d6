"""The best draft length against the delay of the link, with energy free and with energy dear.

Three lengths are compared at each delay: the best fixed one of the recorded texts, what `ratio` plans, and the best one
of a model in which every token is accepted alike. Tokens per second and watts count prompts, which a device that never
drafts does not read. Link, device and edge are modelled.
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import METHODS, Scenario, Share
from gelato_experiments.methods.compare import CAP_TOLERANCE, Measured, mean_and_half, measure, measured
from gelato_experiments.study import Progress, Row
from gelato_jax import payloads, simulation, system
from gelato_jax.simulation import Recording

_CHOOSERS = ("static", "ratio", "iid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is swept.

    Attributes:
        recording: of the pair.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        link: preset, whose delay is replaced.
        edges: presets.
        rtts_s: two-way delays.
        cap_w: cap on mean power where energy is dear.
        penalty_weight: V of `ratio`.
        devices: simulated under each setting.
        rounds: of each device.
        seed: of texts and channels.
        vocab_size: ids that bits are counted over.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    link: str = "5mhz-500m"
    edges: tuple[str, ...] = ("rtx3090-7b", "h100-7b")
    rtts_s: tuple[float, ...] = tuple(float(delay) for delay in np.geomspace(1e-3, 2.0, 12).round(6))
    cap_w: float = 0.5
    penalty_weight: float = 0.3
    devices: int = 32
    rounds: int = 1500
    seed: int = 0
    vocab_size: int = 151936

    @property
    def caps_w(self) -> tuple[float, float]:
        """Energy free, and energy dear."""
        return math.inf, self.cap_w


QUICK = Settings()
FULL = Settings(rtts_s=tuple(float(delay) for delay in np.geomspace(1e-3, 2.0, 23).round(6)), devices=64)


class _Grid(NamedTuple):
    """Every fixed length at every edge and delay: `[E, D, G + 1, shares]`."""

    tokens_per_s: np.ndarray  # prompts counted, as in watts
    power_w: np.ndarray
    round_s: np.ndarray  # of a round, prompts apart
    prompt_per_token_s: np.ndarray


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Sweep the delay.

    Returns:
        Rows of `kind` length, one for each edge, delay and cap: `static`, `ratio` and `iid` (tokens a round) with
        their `_half` of the interval, and the rates of the first two, prompts counted; and of `kind` fit, one for each
        edge and chooser: `slope` (tokens by e-fold of delay), its `_half`, `r2`, and `critical_s`.
    """
    recording = read_recording(settings.recording)
    worlds = {place: _scenario(settings, *place) for place in itertools.product(settings.edges, settings.rtts_s)}
    progress("fixed lengths", 0, 3)
    grid = _fixed(recording, worlds, settings)
    progress("ratio", 1, 3)
    budgets, rates = _ratio(recording, worlds, settings)
    progress("choosing", 2, 3)
    iid = _iid(grid, first_acceptance(recording))
    rows: list[Row] = []
    for (e, edge), (c, cap) in itertools.product(enumerate(settings.edges), enumerate(settings.caps_w)):
        chosen = {"static": _best(grid, e, cap), "ratio": budgets[e, :, c], "iid": iid[e]}
        for d, delay in enumerate(settings.rtts_s):
            best = int(_pooled_best(grid, e, cap)[d])
            row: Row = {"kind": "length", "edge": edge, "rtt_s": delay, "cap_w": cap, "static": best}
            row["static_half"] = mean_and_half(chosen["static"][d])[1]
            row["ratio"], row["ratio_half"] = mean_and_half(budgets[e, d, c])
            row["iid"] = float(iid[e, d].mean()) if math.isinf(cap) else None
            row["static_tokens_per_s"] = float(grid.tokens_per_s[e, d, best].mean())
            share = rates.tokens_per_s[e, d, c] / grid.tokens_per_s[e, d, best]
            row["ratio_share"], row["ratio_share_half"] = mean_and_half(share)
            row["static_power_w"] = float(grid.power_w[e, d, best].mean())
            row["ratio_power_w"] = float(rates.power_w[e, d, c].mean())
            rows.append(row)
        if math.isinf(cap):
            rows += [
                {"kind": "fit", "edge": edge, "chooser": who, **fit(settings.rtts_s, chosen[who])} for who in _CHOOSERS
            ]
    rows.append({"kind": "model", "acceptance": first_acceptance(recording)})
    return rows


def first_acceptance(recording: Recording) -> float:
    """Mean acceptance of a round's first draft token at the deepest exit: nothing before it can hide it."""
    inside = np.arange(recording.rollouts.chance.shape[1]) < recording.rollouts.positions[:, None]
    return float(recording.rollouts.chance[inside][:, -1, 0].mean())


def _scenario(settings: Settings, edge: str, rtt_s: float) -> Scenario:
    world = system.preset(settings.device, settings.link, edge)
    world = dataclasses.replace(world, link=dataclasses.replace(world.link, rtt_s=jnp.float32(rtt_s)))
    return Scenario(
        system=world, payload=payloads.candidates(32), vocabularies=payloads.Vocabularies.whole(settings.vocab_size)
    )


def _effort(settings: Settings) -> Share:
    return Share(devices=settings.devices, rounds=settings.rounds, seed=settings.seed)


def _fixed(recording: Recording, worlds: dict[tuple[str, float], Scenario], settings: Settings) -> _Grid:
    size = recording.max_draft_length
    terms = [
        world.setup(recording, METHODS["static"], math.inf, {"draft_length": length})
        for world in worlds.values()
        for length in range(size + 1)
    ]
    found = measure(recording, terms, _effort(settings))
    shape = (len(settings.edges), len(settings.rtts_s), size + 1, -1)
    return _Grid(*(getattr(found, name).reshape(shape) for name in _Grid._fields))


def _ratio(
    recording: Recording, worlds: dict[tuple[str, float], Scenario], settings: Settings
) -> tuple[np.ndarray, Measured]:
    """Mean budgets of `ratio` once settled, `[E, D, caps, shares]`, and its rates of the same shape."""
    effort, method = _effort(settings), METHODS["ratio"]
    weight = {"penalty_weight": settings.penalty_weight}
    terms = [world.setup(recording, method, cap, weight) for world in worlds.values() for cap in settings.caps_w]
    found = simulation.simulate(
        recording,
        terms,
        devices=effort.devices,
        rounds=effort.rounds,
        warmup=effort.warmup,
        seed=effort.seed,
        folds=effort.shares,
        history=True,
    )
    assert found.history is not None
    shape = (len(settings.edges), len(settings.rtts_s), len(settings.caps_w), effort.shares)
    budget = np.asarray(found.history.seen.budget).reshape(*shape, -1).mean(axis=-1)
    return budget, Measured(*(part.reshape(shape) for part in measured(found, effort.shares)))


def _best(grid: _Grid, edge: int, cap_w: float) -> np.ndarray:
    """The fixed length of most tokens per second that keeps a cap, `[D, shares]`; 0 where none does."""
    keeps = grid.power_w[edge] <= cap_w * (1 + CAP_TOLERANCE)
    return np.where(keeps, grid.tokens_per_s[edge], 0.0).argmax(axis=1)


def _pooled_best(grid: _Grid, edge: int, cap_w: float) -> np.ndarray:
    """The same of all shares together, `[D]`."""
    pooled = _Grid(*(part.mean(axis=-1, keepdims=True) for part in grid))
    return _best(pooled, edge, cap_w)[:, 0]


def _iid(grid: _Grid, acceptance: float) -> np.ndarray:
    """The argmax of N/T with T as simulated and N as if every token were accepted alike, `[E, D, shares]`.

    T is a round's seconds, and of its prompt the share of N tokens.
    """
    tokens = np.cumsum(acceptance ** np.arange(grid.round_s.shape[2]))[:, None]
    return (tokens / (grid.round_s + tokens * grid.prompt_per_token_s)).argmax(axis=2)


def fit(rtts_s: tuple[float, ...], lengths: np.ndarray) -> dict[str, float | None]:
    """Straight line of length against the logarithm of delay, from the last delay at which the length is 1 or less.

    Args:
        rtts_s: D delays, ascending.
        lengths: `[D, shares]`.

    Returns:
        `slope` and its `_half`, `r2` of the means, and `critical_s`: the last delay of length 1.5 or less, None where
        even the first is longer.
    """
    mean, log = lengths.mean(axis=1), np.log(rtts_s)
    short = np.flatnonzero(mean <= 1.5)
    first = short[-1] if len(short) else 0
    x, means, rows = log[first:], mean[first:], lengths[first:]
    if len(x) < 3:
        return {"slope": None, "slope_half": None, "r2": None, "critical_s": float(rtts_s[first])}
    slopes, offsets = np.polyfit(x, rows, 1)
    slope, offset = slopes.mean(), offsets.mean()
    missed = np.square(means - slope * x - offset).sum()
    spread = np.square(means - means.mean()).sum()
    return {
        "slope": float(slope),
        "slope_half": mean_and_half(slopes)[1],
        "r2": float(1.0 - missed / spread) if spread > 0 else None,
        "critical_s": float(rtts_s[first]) if len(short) else None,
    }
