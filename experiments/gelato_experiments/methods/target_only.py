"""Target alone: no drafts, one token a round."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="target-only",
    source="pure target decoding over the link",
    build=lambda power_budget_w: Rules(control.static(0)),
)
