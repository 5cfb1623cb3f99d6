"""The paper's form: drift plus penalty a round, a leaky bucket of entropy within it."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control, payloads


def _build(power_budget_w: float, penalty_weight: float, threshold_nats: float, capacity_nats: float) -> Rules:
    controller = control.gelato(power_budget_w=power_budget_w, penalty_weight=penalty_weight)
    return Rules(controller, control.length_exits.bucket(threshold_nats, capacity_nats))


METHOD = Method(
    name="gelato",
    source="arXiv 2605.10124, as reported",
    build=_build,
    grid=tuple(
        {"penalty_weight": weight, "threshold_nats": leak, "capacity_nats": size}
        for weight in (0.01, 0.1)
        for leak, size in ((0.25, 0.5), (0.5, 1.0), (1.0, 1.0), (1.0, 2.0), (1.5, 3.0), (2.0, 6.0))
    ),
    payload=lambda: payloads.top_p(0.9),
    note="its budget is taken in watts, E - Pbar T: joules a round would not bound power; its constants are unknown",
)
