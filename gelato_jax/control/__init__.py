"""The rules that govern a round: how many tokens to draft, when to stop, how deep to compute, how to sample.

Pure functions of one row; every number is data, so that a sweep never recompiles. `base` says when
each rule is called. Names are loaded when they are first used: the command line asks for the names of
rules before it needs any.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gelato_jax.control.registry import CONTROLLERS, DEPTH_EXITS, DRAFT_SAMPLINGS, LENGTH_EXITS, create

if TYPE_CHECKING:
    from gelato_jax.control import depth_exits, draft_sampling, length_exits
    from gelato_jax.control.base import (
        Controller,
        ControllerRule,
        ControllerState,
        DepthExit,
        DepthExitRule,
        DepthSignal,
        DraftSampling,
        DraftSamplingRule,
        DraftSignal,
        LengthExit,
        LengthExitRule,
    )
    from gelato_jax.control.calibration import acceptance_at, default_calibration, next_acceptance
    from gelato_jax.control.estimator import AcceptanceEstimate, Estimator
    from gelato_jax.control.feasibility import check_energy_budget, check_power_budget, power_floor_w
    from gelato_jax.control.lyapunov import gelato, gelato_estimated, ratio
    from gelato_jax.control.schedules import hf_schedule, static
    from gelato_jax.control.select import (
        select_controller,
        select_depth_exit,
        select_draft_sampling,
        select_length_exit,
    )

__all__ = [
    "CONTROLLERS",
    "DEPTH_EXITS",
    "DRAFT_SAMPLINGS",
    "LENGTH_EXITS",
    "AcceptanceEstimate",
    "Controller",
    "ControllerRule",
    "ControllerState",
    "DepthExit",
    "DepthExitRule",
    "DepthSignal",
    "DraftSampling",
    "DraftSamplingRule",
    "DraftSignal",
    "Estimator",
    "LengthExit",
    "LengthExitRule",
    "acceptance_at",
    "check_energy_budget",
    "check_power_budget",
    "create",
    "default_calibration",
    "depth_exits",
    "draft_sampling",
    "gelato",
    "gelato_estimated",
    "hf_schedule",
    "length_exits",
    "next_acceptance",
    "power_floor_w",
    "ratio",
    "select_controller",
    "select_depth_exit",
    "select_draft_sampling",
    "select_length_exit",
    "static",
]

_MODULES = ("depth_exits", "draft_sampling", "length_exits")
_HOMES = {
    "base": (
        "Controller",
        "ControllerRule",
        "ControllerState",
        "DepthExit",
        "DepthExitRule",
        "DepthSignal",
        "DraftSampling",
        "DraftSamplingRule",
        "DraftSignal",
        "LengthExit",
        "LengthExitRule",
    ),
    "calibration": ("acceptance_at", "default_calibration", "next_acceptance"),
    "estimator": ("AcceptanceEstimate", "Estimator"),
    "feasibility": ("check_energy_budget", "check_power_budget", "power_floor_w"),
    "lyapunov": ("gelato", "gelato_estimated", "ratio"),
    "schedules": ("hf_schedule", "static"),
    "select": ("select_controller", "select_depth_exit", "select_draft_sampling", "select_length_exit"),
}
"""Names by the file they are in."""
_FILES = {name: file for file, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FILES:
        return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
