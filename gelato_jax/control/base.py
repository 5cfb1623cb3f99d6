"""The four kinds of rule that steer a round, each a record of numbers and a tuple of pure functions.

A `record` carries `params` (arrays: data) and `rule` (module-level functions: structure), so that a
number can change, or be vmapped, without compiling again. Adding a rule is one tuple of functions
and one constructor; the functions take `params` first and describe one row in scalars. In a round:

    controller.plan -> [length_exit.start, .limit] -> per token: [sampling.temperature_scale,
    depth_exit.deeper, draw and keep the token, length_exit.step] -> verify -> *.update
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from gelato_jax.control.estimator import AcceptanceEstimate, Estimator
from gelato_jax.types import AcceptanceForecast, Calibration, CostTable, Observation, RoundPlan, record, static

_State = TypeVar("_State")


class ControllerRule(NamedTuple):
    """Functions of a controller.

    init: (params) -> state.
    plan: (params, state, cost_table, forecast) -> RoundPlan.
    update: (params, state, outcome) -> state; only called into effect for active rows.
    queue: (params, state) -> [] joules of the energy queue; 0 for a rule without one.
    charge: (params, state, outcome) -> state after a prompt, which is spent outside rounds.
    power_budget: (params) -> [] watts of the device's mean power that the rule means to keep; inf for a rule without.
    """

    init: Callable[[Any], Any]
    plan: Callable[[Any, Any, CostTable, AcceptanceForecast], RoundPlan]
    update: Callable[[Any, Any, Observation], Any]
    queue: Callable[[Any, Any], Array]
    charge: Callable[[Any, Any, Observation], Any] = lambda params, state, outcome: state
    power_budget: Callable[[Any], Array | float] = lambda params: math.inf


@record
class ControllerState:
    """What a controller carries from round to round, and from request to request."""

    estimate: AcceptanceEstimate
    rule: Any  # the rule's own state


@record
class Controller:
    """Outer loop: decides how many tokens a round may draft, and what joules and seconds are worth."""

    params: Any
    estimator: Estimator
    rule: ControllerRule = static()

    def init(self, calibration: Calibration) -> ControllerState:
        """The state before the first round; the acceptance estimate starts at the calibration's mean."""
        return ControllerState(estimate=self.estimator.init(calibration), rule=self.rule.init(self.params))

    def forecast(
        self, state: ControllerState, max_draft_length: int, outlook: Array | None = None
    ) -> AcceptanceForecast:
        """What the row's next drafts are expected to bring, up to G = `max_draft_length`; `outlook` as of `plan`."""
        return self.estimator.forecast(state.estimate, max_draft_length, outlook)

    def plan(self, state: ControllerState, cost_table: CostTable, outlook: Array | None = None) -> RoundPlan:
        """Decide one round.

        Args:
            state: from `init` or `update`.
            cost_table: expected seconds and joules for every draft length, [G+1].
            outlook: [G] chance of each draft by the calibration, given the ones before it, where that is known by now.

        Returns:
            The plan; `draft_budget` is int32 in 0..G.
        """
        forecast = self.forecast(state, cost_table.time_s.shape[0] - 1, outlook)
        plan = self.rule.plan(self.params, state.rule, cost_table, forecast)
        level, rejections = self.estimator.level(state.estimate), self.estimator.rejection_level(state.estimate)
        return dataclasses.replace(
            plan, acceptance_level=level, rejection_level=rejections, stream_length=cost_table.stream_length
        )

    def update(self, state: ControllerState, outcome: Observation) -> ControllerState:
        """Learn from a round; the state of a row that is not active does not move."""
        moved = ControllerState(
            estimate=self.estimator.update(state.estimate, outcome),
            rule=self.rule.update(self.params, state.rule, outcome),
        )
        return where_active(outcome.active, moved, state)

    def charge(self, state: ControllerState, outcome: Observation) -> ControllerState:
        """Account for a prompt: it costs joules and seconds, and says nothing about acceptance."""
        rule = self.rule.charge(self.params, state.rule, outcome)
        return dataclasses.replace(state, rule=rule)

    def queue(self, state: ControllerState) -> Array:
        """[] joules of the energy queue; 0 for a rule without one."""
        return self.rule.queue(self.params, state.rule)

    @property
    def power_budget_w(self) -> Array | float:
        """[] watts of the device's mean power that the rule means to keep; inf for one without a cap."""
        return self.rule.power_budget(self.params)


@record
class DraftSignal:
    """What a length exit may see after a draft token was decided: nothing of the token itself but its row of q."""

    entropy: Array  # [] nats, of the unprocessed draft softmax
    exit: Array  # [] int32 exit that the softmax was read at, 0..X-1
    max_probability: Array  # [] of the same softmax
    index: Array  # [] int32 i of the token in this round, from 0
    token_s: Array  # [] seconds of one more draft token, upload included
    token_j: Array  # [] joules of the same
    plan: RoundPlan
    calibration: Calibration


class LengthExitRule(NamedTuple):
    """Functions of a length exit.

    init: (params) -> state kept across rounds.
    start: (params, state, plan) -> state at a round's begin.
    limit: (params, plan, max_draft_length) -> [] int32 most tokens of this round.
    step: (params, state, signal) -> (state, stop []).
    update: (params, state, outcome) -> state; only called into effect for active rows.
    """

    init: Callable[[Any], Any]
    start: Callable[[Any, Any, RoundPlan], Any]
    limit: Callable[[Any, RoundPlan, int], Array]
    step: Callable[[Any, Any, DraftSignal], tuple[Any, Array]]
    update: Callable[[Any, Any, Observation], Any]


@record
class LengthExit:
    """Inner loop: ends a draft early.

    Token i itself is always sent: `stop` only ends *further* drafting. So a rule may use anything
    known by then without bending the output's distribution.
    """

    params: Any
    rule: LengthExitRule = static()

    def init(self) -> Any:
        """The state before the first round."""
        return self.rule.init(self.params)

    def start(self, state: Any, plan: RoundPlan) -> Any:
        """The state at the begin of a round."""
        return self.rule.start(self.params, state, plan)

    def limit(self, plan: RoundPlan, max_draft_length: int) -> Array:
        """[] int32, 0..max_draft_length: most tokens that this round may draft."""
        return self.rule.limit(self.params, plan, max_draft_length)

    def step(self, state: Any, signal: DraftSignal) -> tuple[Any, Array]:
        """After token i: the new state, and [] bool whether it was this round's last."""
        return self.rule.step(self.params, state, signal)

    def update(self, state: Any, outcome: Observation) -> Any:
        """Learn from the verified round; the state of a row that is not active does not move."""
        return where_active(outcome.active, self.rule.update(self.params, state, outcome), state)


@record
class DepthSignal:
    """What a depth exit may see at an exit: logits or a probe of them, never the token."""

    entropy: Array  # [] nats, predicted or measured at this exit
    exit: Array  # [] int32 index of the exit, 0..X-1
    survival: Array  # [] A_{i-1}: product of alpha(H) over the round's tokens before this one
    segment_s: Array  # [] seconds of going one exit deeper
    segment_j: Array  # [] joules of the same
    plan: RoundPlan
    calibration: Calibration

    @property
    def last_exit(self) -> int:
        """Index of the deepest exit, X-1."""
        return self.calibration.deeper_acceptance.shape[0] - 1


class DepthExitRule(NamedTuple):
    """Functions of a depth exit.

    deeper: (params, signal) -> [] bool.
    check: (params, num_exits) -> None; raises GelatoError where a draft with so many exits cannot be asked for them.
    """

    deeper: Callable[[Any, DepthSignal], Array]
    check: Callable[[Any, int], None] = lambda params, num_exits: None


@record
class DepthExit:
    """Decides at every exit but the last whether a token deserves more layers."""

    params: Any
    rule: DepthExitRule = static()

    def deeper(self, signal: DepthSignal) -> Array:
        """[] bool: compute on to the next exit; always False at the last."""
        return self.rule.deeper(self.params, signal) & (signal.exit < signal.last_exit)

    def check(self, num_exits: int) -> None:
        """Refuse, on the host, a draft that lacks an exit that the rule asks for.

        Args:
            num_exits: X of the draft.

        Raises:
            GelatoError: names the exit asked for and those there are.
        """
        self.rule.check(self.params, num_exits)


class DraftSamplingRule(NamedTuple):
    """Functions of a sampling rule: temperature_scale is (params, entropy []) -> [] > 0."""

    temperature_scale: Callable[[Any, Array], Array]


@record
class DraftSampling:
    """Shapes q before sampling: the draft's temperature as a function of its entropy."""

    params: Any
    rule: DraftSamplingRule = static()

    def temperature_scale(self, entropy: Array) -> Array:
        """[] factor on the draft's temperature, given H in nats; 1 changes nothing."""
        return self.rule.temperature_scale(self.params, entropy)


def where_active(active: Array, moved: _State, kept: _State) -> _State:
    """`moved` for an active row, `kept` for a finished one; element-wise over the tree."""
    return jax.tree.map(lambda new, old: jnp.where(active, new, old), moved, kept)
