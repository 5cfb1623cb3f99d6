"""DSSD: a fixed length, id and q(x) go up, a target row comes down after a rejection."""

from gelato_experiments.methods.base import LENGTHS, Method, Rules
from gelato_jax import control, payloads

METHOD = Method(
    name="dssd",
    source="arXiv 2507.12000",
    build=lambda power_budget_w, draft_length: Rules(control.static(int(draft_length))),
    grid=tuple({"draft_length": length} for length in LENGTHS),
    payload=payloads.scalar,
    note="its paper and code print the acceptance ratio inverted, q/p; p/q is used, and downlink time and energy count",
)
