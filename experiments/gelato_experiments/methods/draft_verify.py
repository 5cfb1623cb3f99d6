"""Draft & Verify: stop where the likeliest token is not likely enough, the threshold adapted."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="draft_verify",
    source="Draft & Verify, ACL 2024",
    build=lambda power_budget_w, threshold: Rules(control.static(32), control.length_exits.confidence(threshold)),
    grid=tuple({"threshold": t} for t in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)),
)
