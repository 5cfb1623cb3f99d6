"""FlexSpec: the length of best rate on this round's channel that keeps the cap within the round."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax.control.flexspec import flexspec

METHOD = Method(
    name="flexspec",
    source="arXiv 2601.00644, as reported",
    build=lambda power_budget_w: Rules(flexspec(power_budget_w)),
    note="one round at a time: what a round does not spend is lost",
)
