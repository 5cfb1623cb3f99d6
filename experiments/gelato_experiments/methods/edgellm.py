"""EdgeLLM without its token tree: cumulative confidence with a threshold that tunes itself."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control
from gelato_jax.control.edgellm import edgellm_no_tree

METHOD = Method(
    name="edgellm_no_tree",
    source="EdgeLLM, TMC 10.1109/TMC.2024.3513457, from memory",
    build=lambda power_budget_w, threshold: Rules(control.static(32), edgellm_no_tree(threshold)),
    grid=tuple({"threshold": t} for t in (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)),
    note="a chain of tokens, not a tree",
)
