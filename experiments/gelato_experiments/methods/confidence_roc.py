"""DISCO as transformers has it: stop under a confidence that is refitted to what was accepted."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control
from gelato_jax.control.confidence_roc import confidence_roc

METHOD = Method(
    name="confidence_roc",
    source="DISCO, arXiv 2405.04304; transformers PR 33258 and 34156",
    build=lambda power_budget_w, threshold: Rules(control.static(32), confidence_roc(threshold)),
    grid=tuple({"threshold": t} for t in (0.1, 0.2, 0.4, 0.6, 0.8)),
    note="the threshold of transformers, from the ROC; the paper trains a classifier",
)
