"""Replaying recorded rollouts of a real pair under any rule, link and device: millions of rounds a second."""

from gelato_jax.simulation.environment import Environment
from gelato_jax.simulation.lifetime import History, Simulation
from gelato_jax.simulation.recording import Recording, Rollouts, load, save
from gelato_jax.simulation.simulate import Rates, by_share, make_setup, rates, simulate, stack, total

__all__ = [
    "Environment",
    "History",
    "Rates",
    "Recording",
    "Rollouts",
    "Simulation",
    "by_share",
    "load",
    "make_setup",
    "rates",
    "save",
    "simulate",
    "stack",
    "total",
]
