"""Ours, with priced exits: the queue's prices end a round's drafting token by token."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control


def _build(power_budget_w: float, penalty_weight: float, prior_strength: float = 10.0) -> Rules:
    estimator = control.Estimator.create(prior_strength=prior_strength)
    controller = control.ratio(power_budget_w=power_budget_w, penalty_weight=penalty_weight, estimator=estimator)
    return Rules(controller, control.length_exits.priced())


METHOD = Method(
    name="ratio_priced",
    source="ours",
    build=_build,
    grid=tuple(
        {"penalty_weight": weight, "prior_strength": strength}
        for weight in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
        for strength in (10.0, 30.0)
    ),
)
