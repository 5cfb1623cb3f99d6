"""BanditSpec: an upper-confidence bandit over draft lengths, on tokens per second."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax.control.banditspec import banditspec

METHOD = Method(
    name="banditspec",
    source="arXiv 2505.15141",
    build=lambda power_budget_w: Rules(banditspec()),
    note="counts by arm; the public code sums them over arms",
)
