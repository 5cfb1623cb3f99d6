"""How much to believe in repeats: fits of `RepeatOdds` to what a draft's head and its target said of them."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gelato_jax.training.calibrate import Distribution, joined
from gelato_jax.training.trace import LONGEST_REPEAT, Trace
from gelato_jax.types import RepeatOdds

_PRIOR = 4.0  # tokens of evidence that leaving the head's odds alone is worth (assumed)
_STEPS = 100  # of Newton's method, at most


def fit_repeats(traces: Sequence[Trace], distribution: Distribution) -> RepeatOdds:
    """Fit the odds of repeated tokens, by how many tokens repeat and at each exit.

    Sampled: the odds are such that the token's chance is the target's, in the mean (logistic
    regression on the target's probability). Greedy: only which token comes first matters; the odds
    decide between the repeated token and the head's likeliest other one as often as can be for the
    one that is the target's (logistic regression where either is).

    Args:
        traces: of answers of that distribution, measured without odds of repeats.
        distribution: which of the two.
    """
    trace = joined(traces)
    exits = trace.repeat_odds.shape[1]
    slope, offset = np.ones((exits, LONGEST_REPEAT)), np.zeros((exits, LONGEST_REPEAT))
    unseen = np.zeros(LONGEST_REPEAT)
    target = np.asarray(trace.repeat_wins if distribution == "greedy" else trace.repeat_chance, np.float64)
    for size in range(1, LONGEST_REPEAT + 1):
        members = trace.repeat_count == size
        missing = members & np.isnan(trace.repeat_odds[:, 0])
        unseen[size - 1] = target[missing].sum() / (missing.sum() + _PRIOR)
        for index in range(exits):
            inside = members & ~missing
            rival = np.zeros(len(target))
            if distribution == "greedy":
                inside = inside & (trace.repeat_wins | trace.rival_wins[:, index])
                rival = np.asarray(trace.rival[:, index], np.float64)
            odds = np.asarray(trace.repeat_odds[inside, index], np.float64)
            slope[index, size - 1], offset[index, size - 1] = logistic(odds, target[inside], rival[inside])
    fields = {"slope": slope, "offset": offset, "unseen": unseen}
    return RepeatOdds(**{name: jnp.asarray(value, jnp.float32) for name, value in fields.items()})


def logistic(odds: np.ndarray, target: np.ndarray, rival: np.ndarray) -> tuple[float, float]:
    """Slope a >= 0 and offset b of sigmoid(a * odds + b - rival), nearest to `target` in [0, 1] by likelihood.

    A weak pull towards a = 1, b = 0 keeps it finite where the evidence is one-sided or missing.
    """
    features = np.stack([odds, np.ones_like(odds)], axis=1)
    prior, precision = np.array([1.0, 0.0]), _PRIOR / 4 * np.eye(2)  # a token of even odds has the information 1/4

    def likelihood(value: np.ndarray) -> float:
        margin, pull = features @ value - rival, value - prior
        return float(np.sum(target * margin - np.logaddexp(0.0, margin)) - pull @ precision @ pull / 2)

    value, best = prior, likelihood(prior)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(features @ value - rival, -40, 40)))
        gradient = features.T @ (target - chance) - precision @ (value - prior)
        information = (features * (chance * (1 - chance))[:, None]).T @ features + precision
        step = np.linalg.solve(information, gradient)
        # Far from the optimum most chances are 0 or 1 and a whole step overshoots; the likelihood is concave.
        while (reached := likelihood(value + step)) < best and np.abs(step).max() > 1e-9:
            step = step / 2
        if np.abs(step).max() <= 1e-9:
            break
        value, best = value + step, reached
    return max(float(value[0]), 0.0), float(value[1])
