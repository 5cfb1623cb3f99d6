"""SLED: draft until the cumulative confidence falls under a threshold."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control, payloads
from gelato_jax.control.sled import sled

METHOD = Method(
    name="sled",
    source="arXiv 2506.09397, as reported",
    build=lambda power_budget_w, threshold: Rules(control.static(32), sled(threshold)),
    grid=tuple({"threshold": t} for t in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)),
    payload=payloads.full,
    note="the token that fell under the threshold is sent: trimming it would bend the distribution",
)
