"""The bound of full foresight: a policy that knows how many tokens will be accepted before the round begins."""

import math

import numpy as np
from numpy.typing import ArrayLike

from gelato_experiments.oracles import round_level
from gelato_experiments.oracles.costs import RoundCosts
from gelato_experiments.oracles.entropy_model import distribution


def solve(
    probability: ArrayLike, accepted: ArrayLike, costs: RoundCosts, *, power_cap_w: float = math.inf
) -> round_level.RoundLevelOptimum:
    """The best rate of a policy that sees (link state w, accepted length k): N = min(g, k) + 1.

    No policy that learns less can do better; the entropies would add nothing to k.

    Args:
        probability: [W] distribution of the link state.
        accepted: [G + 1] distribution of k, the number of G drafts that would be accepted; or [W, G + 1].
        costs: costs of a round; it is rejected iff k < g.
        power_cap_w: Pbar, watts; inf for none.

    Returns:
        The optimum; `policy` is [W * (G + 1), G + 1], state w * (G + 1) + k, then draft length.

    Raises:
        ValueError: shapes disagree or a distribution is none.
        RuntimeError: the solver gave up.
    """
    states, lengths = len(costs.base_s), costs.max_draft_length + 1
    link = distribution("probability", probability, (states,))
    accepted = np.asarray(accepted, np.float64)
    shape = (states, lengths) if accepted.ndim == 2 else (lengths,)
    joint = link[:, None] * distribution("accepted", accepted, shape)
    length = np.arange(lengths)
    tokens = np.broadcast_to(np.minimum(length[:, None], length) + 1.0, (states, lengths, lengths))
    tables = [table.reshape(states * lengths, lengths) for table in (tokens, *costs.by_outcome())]
    return round_level.solve(joint.ravel(), *tables, power_cap_w=power_cap_w)
