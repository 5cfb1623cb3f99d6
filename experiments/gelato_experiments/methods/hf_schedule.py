"""The schedule of transformers: two more after a full success, one fewer otherwise."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="hf_schedule",
    source="transformers, candidate generator, schedule `heuristic`",
    build=lambda power_budget_w, initial: Rules(control.hf_schedule(int(initial))),
    grid=tuple({"initial": length} for length in (1, 2, 3, 5, 8, 12)),
)
