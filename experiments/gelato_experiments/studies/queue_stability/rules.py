"""The forms of `gelato` that the study `queue_stability` runs, and what is taken out of them."""

from typing import Any

from gelato_jax import control
from gelato_jax.control import Controller

MUTANTS = {
    "no queue": {"keeps_queue": False},
    "E without budget": {"counts_allowance": False},
    "queue not heeded": {"heeds_queue": False},
}
"""Name -> what is taken out of `gelato` with joules a round."""


def in_watts(cap: float, weight: float, **more: Any) -> Controller:
    """`gelato` with a budget of watts."""
    return control.gelato_estimated(power_budget_w=cap, penalty_weight=weight, **more)


def in_joules(budget: float, weight: float, **more: Any) -> Controller:
    """`gelato` with a budget of joules a round."""
    return control.gelato_estimated(energy_budget_j=budget, penalty_weight=weight, **more)
