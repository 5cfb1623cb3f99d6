"""Distributed speculative decoding: a fixed length, all of q goes up."""

from gelato_experiments.methods.base import LENGTHS, Method, Rules
from gelato_jax import control, payloads

METHOD = Method(
    name="dsd",
    source="the classical split of arXiv 2211.17192 over a link",
    build=lambda power_budget_w, draft_length: Rules(control.static(int(draft_length))),
    grid=tuple({"draft_length": length} for length in LENGTHS),
    payload=payloads.full,
)
