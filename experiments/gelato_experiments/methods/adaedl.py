"""AdaEDL: stop on an entropy bound of acceptance, its threshold adapted."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control

METHOD = Method(
    name="adaedl",
    source="arXiv 2410.18351",
    build=lambda power_budget_w, factor, threshold: Rules(
        control.static(32), control.length_exits.adaedl(factor, threshold)
    ),
    grid=tuple({"factor": c, "threshold": t} for c in (0.1, 0.2, 0.4) for t in (0.1, 0.3, 0.5, 0.7)),
)
