"""SpecDec++ with alpha(H) in place of its trained head: stop where a rejection has become likely."""

from gelato_experiments.methods.base import Method, Rules
from gelato_jax import control
from gelato_jax.control.specdec_entropy import specdec_entropy

METHOD = Method(
    name="specdec_entropy",
    source="SpecDec++, arXiv 2405.19715",
    build=lambda power_budget_w, threshold: Rules(control.static(32), specdec_entropy(threshold)),
    grid=tuple({"threshold": t} for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)),
    note="the calibrated alpha(H) replaces the trained acceptance head",
)
