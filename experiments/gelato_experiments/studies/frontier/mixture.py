"""Time sharing of two fixed lengths, by request: what keeps a cap without any controller."""

import json
import math

import numpy as np

from gelato_experiments.methods import METHODS, Scenario
from gelato_experiments.methods.compare import mean_and_half, measure
from gelato_experiments.studies.frontier.settings import Settings
from gelato_experiments.study import Row
from gelato_jax.simulation import Recording


def mixture_rows(
    link: str, judging: Recording, scenario: Scenario, caps: tuple[float, ...], settings: Settings
) -> list[Row]:
    """The best mixture under each cap, as `compare`'s rows, `kind` mixture.

    Its lengths and their shares are chosen on the texts that it is judged on, which those of methods are not.
    """
    lengths = range(judging.max_draft_length + 1)
    alone = [scenario.setup(judging, METHODS["static"], math.inf, {"draft_length": length}) for length in lengths]
    measured = measure(judging, alone, settings.effort)
    rows: list[Row] = []
    for cap in caps:
        weights = best_mixture(measured.tokens_per_s.mean(axis=1), measured.power_w.mean(axis=1), cap)
        rate, power = weights @ measured.tokens_per_s, weights @ measured.power_w
        used = {str(length): round(float(weights[length]), 4) for length in lengths if weights[length] > 0}
        row: Row = {"kind": "mixture", "link": link, "method": "static_mix", "cap_w": cap, "feasible": True}
        row["setting"] = json.dumps({"share_of_time": used})
        row["tokens_per_s"], row["tokens_per_s_half"] = mean_and_half(rate)
        row["power_w"], row["power_w_half"] = mean_and_half(power)
        row["tokens_per_s_shares"] = json.dumps(rate.tolist())
        row["keeps_cap"] = True
        rows.append(row)
    return rows


def best_mixture(rate: np.ndarray, power: np.ndarray, cap_w: float) -> np.ndarray:
    """Shares of time of most tokens per second under a cap: one setting's, or two's of which one breaks it.

    Args:
        rate: `[L]` tokens per second of each setting.
        power: `[L]` watts.
        cap_w: at least the least of them, or that setting is taken alone.

    Returns:
        `[L]`, summing to 1.
    """
    keeps = power <= cap_w
    best = np.zeros(len(rate))
    best[int(np.where(keeps, rate, -np.inf).argmax() if keeps.any() else power.argmin())] = 1.0
    for low in np.flatnonzero(keeps):
        for high in np.flatnonzero(~keeps):
            share = (power[high] - cap_w) / (power[high] - power[low])
            if share * rate[low] + (1 - share) * rate[high] > best @ rate:
                best = np.zeros(len(rate))
                best[low], best[high] = share, 1 - share
    return best
