"""Oracles: what the best policy of each kind of knowledge would reach, to hold controllers against.

All three maximise lim sum(N) / sum(T) subject to lim sum(E) / sum(T) <= Pbar over rounds of N tokens, T
seconds and E joules. `round_level` sees the state before the round, `entropy_stopping` also the entropies
within it, `clairvoyant` knows beforehand how many tokens will be accepted. NumPy and SciPy in float64;
no files, no JAX.
"""

from gelato_experiments.oracles import clairvoyant, entropy_stopping, round_level
from gelato_experiments.oracles.costs import RoundCosts
from gelato_experiments.oracles.entropy_model import EntropyModel, fit
from gelato_experiments.oracles.entropy_stopping import StoppingOptimum, StoppingPolicy
from gelato_experiments.oracles.round_level import RoundLevelOptimum, evaluate
from gelato_experiments.oracles.stopping_rules import fixed_length_tables

__all__ = [
    "EntropyModel",
    "RoundCosts",
    "RoundLevelOptimum",
    "StoppingOptimum",
    "StoppingPolicy",
    "clairvoyant",
    "entropy_stopping",
    "evaluate",
    "fit",
    "fixed_length_tables",
    "round_level",
]
