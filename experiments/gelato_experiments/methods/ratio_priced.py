"""Ours, with priced exits: the queue's prices end a round's drafting token by token."""

from gelato_experiments.methods import ratio
from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control


def _build(power_budget_w: float, **setting: float) -> Rules:
    return Rules(ratio.controller(power_budget_w, **setting), control.length_exits.priced())


METHOD = Method(name="ratio_priced", source="ours", build=_build, grid=ratio.METHOD.grid)
