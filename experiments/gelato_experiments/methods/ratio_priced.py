"""Ours, with priced exits: the queue's prices end a round's drafting token by token."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="ratio_priced",
    source="ours",
    build=lambda power_budget_w, penalty_weight: Rules(
        control.ratio(power_budget_w=power_budget_w, penalty_weight=penalty_weight), control.length_exits.priced()
    ),
    grid=tuple({"penalty_weight": weight} for weight in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
)
