"""A map over delay, passes of the target that a token may take, waiting power and watts to spare.

A server that streams needs no draft: it sends a token a pass, and nothing waits for the link. Drafts pay where such
passes are scarce, so here they are what is limited: an edge that is shared by many grants each device a number of
passes a token. Cost and acceptance are of drafts of like size. Link, device and edge are modelled.
"""

import dataclasses
import itertools
import json
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gelato_experiments.inputs import read_recording
from gelato_experiments.methods import METHODS, Method, Scenario, Share
from gelato_experiments.methods.compare import (
    CAP_TOLERANCE,
    Measured,
    best_setting,
    figures,
    mean_and_half,
    measure,
)
from gelato_experiments.methods.mixture import NAME as MIXTURE
from gelato_experiments.methods.mixture import measure_lengths, mixture_row
from gelato_experiments.study import Progress, Row
from gelato_jax import payloads, system
from gelato_jax.decoding.job import LONGEST_STREAM
from gelato_jax.simulation import Recording

STREAM, FIXED = "streaming", "static"
"""The target alone, and the best fixed length, which may be that."""
OURS = ("ratio", "ratio_priced")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is mapped.

    Attributes:
        recordings: of pairs.
        device: preset; a draft of the family, as the recordings' is.
        link: preset, whose delay is replaced.
        edge: preset.
        rtts_s: two-way delays.
        pass_budgets: passes of the target allowed a token; 1 is what a stream takes.
        waiting_w: power of a device that waits, its radio included.
        spare_w: watts that the cap leaves above waiting.
        devices: simulated under each setting.
        rounds: of each device.
        warmup: rounds before them that do not count.
        seed: of texts and channels.
    """

    recordings: tuple[str, ...] = ("short-greedy", "short-sampled")
    device: str = "orin-nano-15w:smollm2-135m"
    link: str = "5mhz-500m"
    edge: str = "rtx3090-7b"
    rtts_s: tuple[float, ...] = (0.02, 0.14)
    pass_budgets: tuple[float, ...] = (1.0, 0.8, 0.6)
    waiting_w: tuple[float, ...] = (0.4, 1.6)
    spare_w: tuple[float, ...] = (0.5, math.inf)
    devices: int = 32
    rounds: int = 1000
    warmup: int = 1500
    seed: int = 0

    @property
    def effort(self) -> Share:
        """How much is simulated of each setting."""
        return Share(devices=self.devices, rounds=self.rounds, warmup=self.warmup, seed=self.seed)


QUICK = Settings()
FULL = Settings(
    rtts_s=(0.02, 0.06, 0.14, 0.4),
    pass_budgets=(1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
    waiting_w=(0.4, 1.6, 3.0),
    spare_w=(0.25, 1.0, math.inf),
    devices=64,
    rounds=3000,
    warmup=1500,
)


class Cell(NamedTuple):
    """A place of the map."""

    rtt_s: float
    waiting_w: float
    spare_w: float
    pass_budget: float

    @property
    def cap_w(self) -> float:
        """On mean power."""
        return self.waiting_w + self.spare_w


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Judge every method in every cell.

    Returns:
        Rows of a `recording`, `rtt_s`, `waiting_w`, `spare_w`, `pass_budget` and `method`, with `tokens_per_s`,
        `power_w` and `energy_per_token_j` (prompts counted, `_half` of their intervals over texts), `passes_per_token`,
        `setting`, `keeps` (both limits), and `gain_pct` over the mixture, with its `_half`. A method that no setting
        keeps within the limits has no figures; the stream has its `free_tokens_per_s` and `free_energy_per_token_j`,
        those of a budget of 1 and no cap, everywhere.
    """
    rows: list[Row] = []
    done, total = 0, len(settings.recordings) * (1 + len(OURS))
    cells = [
        Cell(*place)
        for place in itertools.product(settings.rtts_s, settings.waiting_w, settings.spare_w, settings.pass_budgets)
    ]
    for name in settings.recordings:
        tuning, judging = read_recording(name).halves()
        progress("fixed lengths", done, total)
        found = _fixed(tuning, judging, cells, settings)
        for method in OURS:
            done += 1
            progress(f"mapping {method}", done, total)
            for cell, row in _tuned(METHODS[method], tuning, judging, cells, settings).items():
                found[cell].append(row)
        done += 1
        rows += [{"recording": name, **cell._asdict(), **row} for cell in cells for row in _against(found[cell])]
    return rows


def _scenario(settings: Settings, rtt_s: float, waiting_w: float) -> Scenario:
    world = system.preset(settings.device, settings.link, settings.edge)
    device = dataclasses.replace(world.device, idle_w=jnp.float32(waiting_w))
    link = dataclasses.replace(world.link, rtt_s=jnp.float32(rtt_s))
    world = dataclasses.replace(world, device=device, link=link)
    return Scenario(system=world, payload=payloads.candidates(32), stream_length=LONGEST_STREAM)


def _fixed(tuning: Recording, judging: Recording, cells: list[Cell], settings: Settings) -> dict[Cell, list[Row]]:
    """The stream, the best fixed length as found on other texts, and the best mixture of lengths."""
    found: dict[Cell, list[Row]] = {}
    for place, members in itertools.groupby(cells, key=lambda cell: (cell.rtt_s, cell.waiting_w)):
        scenario = _scenario(settings, *place)
        tuned, judged = (measure_lengths(half, scenario, settings.effort) for half in (tuning, judging))
        for cell in members:
            best = best_setting(tuned.tokens_per_s.mean(axis=1), _over(tuned, cell))
            mixed = mixture_row(judged, cell.cap_w, cell.pass_budget)
            mixed["keeps"] = mixed.pop("keeps_cap")
            stream = _row(STREAM, judged, 0, cell, {}) if _keeps(judged, cell)[0] else _none(STREAM)
            stream["free_tokens_per_s"] = float(judged.tokens_per_s[0].mean())
            stream["free_energy_per_token_j"] = float(judged.energy_per_token_j[0].mean())
            kept = _keeps(tuned, cell)[best]
            fixed = _row(FIXED, judged, best, cell, {"draft_length": best}) if kept else _none(FIXED)
            found[cell] = [stream, fixed, mixed]
    return found


def _tuned(
    method: Method, tuning: Recording, judging: Recording, cells: list[Cell], settings: Settings
) -> dict[Cell, Row]:
    """A method in all cells: its setting of most tokens per second that keeps both limits on other texts."""

    def found(recording: Recording, wanted: list[tuple[Cell, dict]]) -> Measured:
        terms = [
            _scenario(settings, cell.rtt_s, cell.waiting_w).setup(recording, method, cell.cap_w, setting)
            for cell, setting in wanted
        ]
        return measure(recording, terms, settings.effort)

    tried = [(cell, {**setting, "pass_budget": cell.pass_budget}) for cell in cells for setting in method.grid]
    tuned = found(tuning, tried)
    chosen = []
    for number, cell in enumerate(cells):
        own = slice(number * len(method.grid), (number + 1) * len(method.grid))
        part = Measured(*(values[own] for values in tuned))
        chosen.append(tried[own][best_setting(part.tokens_per_s.mean(axis=1), _over(part, cell))])
    judged = found(judging, chosen)
    return {cell: _row(method.name, judged, number, cell, setting) for number, (cell, setting) in enumerate(chosen)}


def _over(found: Measured, cell: Cell) -> np.ndarray:
    """By what share each setting breaks the limit that it breaks most, `[S]`."""
    passes = found.passes_per_token.mean(axis=1) / cell.pass_budget
    return np.maximum(found.power_w.mean(axis=1) / cell.cap_w, passes) - 1.0


def _keeps(found: Measured, cell: Cell) -> np.ndarray:
    return _over(found, cell) <= CAP_TOLERANCE


def _row(method: str, found: Measured, number: int, cell: Cell, setting: dict) -> Row:
    row: Row = {"method": method, "setting": json.dumps(setting), **figures(found, number)}
    row["passes_per_token"] = float(found.passes_per_token[number].mean())
    row["keeps"] = bool(_keeps(found, cell)[number])
    return row


def _none(method: str) -> Row:
    return {"method": method, "keeps": False}


def _against(rows: list[Row]) -> list[Row]:
    """Rows of a cell with their gains over the mixture, on the same texts."""
    base = np.asarray(json.loads(next(row["tokens_per_s_shares"] for row in rows if row["method"] == MIXTURE)))
    for row in rows:
        if "tokens_per_s" in row:
            gain = 100.0 * (np.asarray(json.loads(row.pop("tokens_per_s_shares"))) / base - 1.0)
            row["gain_pct"], row["gain_pct_half"] = mean_and_half(gain)
        row.pop("cap_w", None)
    return rows
