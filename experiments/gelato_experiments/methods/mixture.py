"""Time sharing of fixed lengths, by request: what keeps a cap without any controller."""

import json
import math

import numpy as np
from scipy.optimize import linprog

from gelato_experiments.methods import static
from gelato_experiments.methods.compare import Measured, Scenario, Share, mean_and_half, measure
from gelato_experiments.study import Row
from gelato_jax.simulation import Recording

NAME = "static_mix"


def measure_lengths(recording: Recording, scenario: Scenario, effort: Share) -> Measured:
    """Every fixed length 0..G in a world, without a cap."""
    lengths = range(recording.max_draft_length + 1)
    alone = [scenario.setup(recording, static.METHOD, math.inf, {"draft_length": length}) for length in lengths]
    return measure(recording, alone, effort)


def mixture_row(lengths: Measured, cap_w: float, pass_budget: float = math.inf) -> Row:
    """The best mixture of fixed lengths under a cap, as a row of `compare`; its shares are of time.

    Lengths and shares are chosen on the texts that it is judged on, which those of methods are not.

    Args:
        lengths: what `measure_lengths` found, on those texts.
        cap_w: on mean power.
        pass_budget: passes of the target allowed a token.
    """
    rate, power = lengths.tokens_per_s.mean(axis=1), lengths.power_w.mean(axis=1)
    passes = (lengths.passes_per_token * lengths.tokens_per_s).mean(axis=1)
    excess = [power - cap_w] if math.isfinite(cap_w) else []
    excess += [passes - pass_budget * rate] if math.isfinite(pass_budget) else []
    weights = best_mixture(rate, np.stack(excess) if excess else np.zeros((0, len(rate))))
    tokens, watts = weights @ lengths.tokens_per_s, weights @ lengths.power_w
    row: Row = {"method": NAME, "cap_w": cap_w}
    used = {str(length): round(float(weight), 4) for length, weight in enumerate(weights) if weight > 0}
    row["setting"] = json.dumps({"share_of_time": used})
    row["tokens_per_s"], row["tokens_per_s_half"] = mean_and_half(tokens)
    row["power_w"], row["power_w_half"] = mean_and_half(watts)
    row["energy_per_token_j"], row["energy_per_token_j_half"] = mean_and_half(watts / tokens)
    row["tokens_per_s_shares"] = json.dumps(tokens.tolist())
    row["passes_per_token"] = float(weights @ passes / (weights @ rate))
    row["keeps_cap"] = bool(all(weights @ over <= 1e-6 * max(np.abs(over).max(), 1e-12) for over in excess))
    return row


def best_mixture(rate: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Shares of time of most tokens per second under K limits on means: of at most K + 1 settings.

    Args:
        rate: `[L]` tokens per second of each setting.
        excess: `[K, L]` what each setting spends a second over each limit; negative where it keeps it.

    Returns:
        `[L]`, summing to 1; where no mixture keeps all limits, the one setting that is nearest to it.
    """
    scale = np.maximum(np.abs(excess).max(axis=1, keepdims=True, initial=0.0), 1e-12)
    one = np.ones((1, len(rate)))
    found = linprog(-rate, A_ub=excess / scale, b_ub=np.zeros(len(excess)), A_eq=one, b_eq=[1.0], method="highs-ds")
    if found.status == 0:
        return np.where(found.x < 1e-9, 0.0, found.x)
    return np.eye(len(rate))[int((excess / scale).max(axis=0).argmin())]
