"""SVIP: stop where the root of the entropy passes a threshold."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="svip",
    source="arXiv 2411.18462",
    build=lambda power_budget_w, threshold: Rules(control.static(32), control.length_exits.svip(0.15, threshold)),
    grid=tuple({"threshold": t} for t in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4)),
)
