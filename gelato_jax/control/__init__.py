"""The rules that govern a round: how many tokens to draft, when to stop, how deep to compute, how to sample.

Pure functions of one row; every number is data, so that a sweep never recompiles. `base` says when
each rule is called.
"""

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
from gelato_jax.control.feasibility import check_power_budget, power_floor_w
from gelato_jax.control.lyapunov import gelato, ratio
from gelato_jax.control.registry import CONTROLLERS, DEPTH_EXITS, DRAFT_SAMPLINGS, LENGTH_EXITS, create
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
    "check_power_budget",
    "create",
    "default_calibration",
    "depth_exits",
    "draft_sampling",
    "gelato",
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
