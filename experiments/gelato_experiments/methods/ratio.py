"""Ours, lengths alone: tokens per second under a cap on mean power."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="ratio",
    source="ours; renewal systems, arXiv 1011.5942",
    build=lambda power_budget_w, penalty_weight: Rules(
        control.ratio(power_budget_w=power_budget_w, penalty_weight=penalty_weight)
    ),
    grid=tuple({"penalty_weight": weight} for weight in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
)
