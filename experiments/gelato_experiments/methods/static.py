"""One draft length for all rounds, the best of a grid."""

from gelato_experiments.methods.base import LENGTHS, Method, Rules
from gelato_jax import control

METHOD = Method(
    name="static",
    source="speculative decoding, arXiv 2211.17192",
    build=lambda power_budget_w, draft_length: Rules(control.static(int(draft_length))),
    grid=tuple({"draft_length": length} for length in LENGTHS),
)
