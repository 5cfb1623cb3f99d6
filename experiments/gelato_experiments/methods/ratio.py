"""Ours, lengths alone: tokens per second under a cap on mean power."""

import math

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control


def controller(
    power_budget_w: float, penalty_weight: float, discount: float = 0.95, pass_budget: float = math.inf
) -> control.Controller:
    """`ratio` under a cap, and under a budget of the target's passes where there is one."""
    return control.ratio(
        power_budget_w=power_budget_w,
        pass_budget=pass_budget,
        penalty_weight=penalty_weight,
        estimator=control.Estimator.create(discount=discount),
    )


METHOD = Method(
    name="ratio",
    source="ours; renewal systems, arXiv 1011.5942",
    build=lambda power_budget_w, **setting: Rules(controller(power_budget_w, **setting)),
    grid=tuple(
        {"penalty_weight": weight, "discount": discount}
        for weight in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
        for discount in (0.8, 0.95)
    ),
)
