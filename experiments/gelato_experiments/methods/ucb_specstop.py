"""UCB-SpecStop: the length of best rate at an optimistic acceptance."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax.control.ucb_specstop import ucb_specstop

METHOD = Method(
    name="ucb_specstop",
    source="arXiv 2606.20591, as reported",
    build=lambda power_budget_w: Rules(ucb_specstop()),
)
