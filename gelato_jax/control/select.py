"""Rules chosen by a traced index, so that one compiled program serves many: for sweeps and tests.

The state is the tuple of every option's state; only the chosen one moves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from gelato_jax.control.base import (
    Controller,
    ControllerRule,
    DepthExit,
    DepthExitRule,
    DepthSignal,
    DraftSampling,
    DraftSamplingRule,
    DraftSignal,
    LengthExit,
    LengthExitRule,
)
from gelato_jax.types import AcceptanceForecast, CostTable, Observation, RoundPlan, number, record


@record
class Choice:
    """Some rules of one kind, and which of them is in force."""

    options: tuple[Any, ...]
    index: Array  # [] int32


def select_controller(options: Sequence[Controller], index: ArrayLike) -> Controller:
    """The controller `options[index]`, with its estimator."""
    choice = _choice(options, index)
    estimators = [option.estimator for option in options]
    chosen = jax.tree.map(lambda *numbers: jnp.stack(numbers)[choice.index], *estimators)
    return Controller(params=choice, estimator=chosen, rule=_CONTROLLER)


def select_length_exit(options: Sequence[LengthExit], index: ArrayLike) -> LengthExit:
    """The length exit `options[index]`."""
    return LengthExit(params=_choice(options, index), rule=_LENGTH_EXIT)


def select_depth_exit(options: Sequence[DepthExit], index: ArrayLike) -> DepthExit:
    """The depth exit `options[index]`."""
    return DepthExit(params=_choice(options, index), rule=_DEPTH_EXIT)


def select_draft_sampling(options: Sequence[DraftSampling], index: ArrayLike) -> DraftSampling:
    """The sampling rule `options[index]`."""
    return DraftSampling(params=_choice(options, index), rule=_DRAFT_SAMPLING)


def _choice(options: Sequence[Any], index: ArrayLike) -> Choice:
    chosen = number("index", index, low=0, high=len(options) - 1, dtype=jnp.int32)
    return Choice(options=tuple(options), index=chosen)


def _init(choice: Choice) -> tuple[Any, ...]:
    return tuple(option.rule.init(option.params) for option in choice.options)


def _call(choice: Choice, call: Callable[[int, Any], Any]) -> Any:
    """`call(i, options[i])` for the chosen i alone."""
    branches = [lambda i=i, option=option: call(i, option) for i, option in enumerate(choice.options)]
    return lax.switch(choice.index, branches)


def _put(state: tuple[Any, ...], i: int, value: Any) -> tuple[Any, ...]:
    return (*state[:i], value, *state[i + 1 :])


def _plan(choice: Choice, state: tuple[Any, ...], cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
    return _call(choice, lambda i, option: option.rule.plan(option.params, state[i], cost_table, forecast))


def _update(choice: Choice, state: tuple[Any, ...], outcome: Observation) -> tuple[Any, ...]:
    return _call(choice, lambda i, option: _put(state, i, option.rule.update(option.params, state[i], outcome)))


def _charge(choice: Choice, state: tuple[Any, ...], outcome: Observation) -> tuple[Any, ...]:
    def branch(i: int, option: Controller) -> tuple[Any, ...]:
        return _put(state, i, option.rule.charge(option.params, state[i], outcome))

    return _call(choice, branch)


def _queue(choice: Choice, state: tuple[Any, ...]) -> Array:
    return _call(choice, lambda i, option: option.rule.queue(option.params, state[i]))


def _power_budget(choice: Choice) -> Array:
    return _call(choice, lambda i, option: jnp.asarray(option.power_budget_w, jnp.float32))


def _start(choice: Choice, state: tuple[Any, ...], plan: RoundPlan) -> tuple[Any, ...]:
    return _call(choice, lambda i, option: _put(state, i, option.start(state[i], plan)))


def _limit(choice: Choice, plan: RoundPlan, max_draft_length: int) -> Array:
    return _call(choice, lambda i, option: option.limit(plan, max_draft_length))


def _step(choice: Choice, state: tuple[Any, ...], signal: DraftSignal) -> tuple[tuple[Any, ...], Array]:
    def branch(i: int, option: LengthExit) -> tuple[tuple[Any, ...], Array]:
        moved, stop = option.step(state[i], signal)
        return _put(state, i, moved), stop

    return _call(choice, branch)


def _deeper(choice: Choice, signal: DepthSignal) -> Array:
    return _call(choice, lambda i, option: option.deeper(signal))


def _check_depth(choice: Choice, num_exits: int) -> None:
    for option in choice.options:
        option.check(num_exits)


def _temperature_scale(choice: Choice, entropy: Array) -> Array:
    return _call(choice, lambda i, option: option.temperature_scale(entropy))


_CONTROLLER = ControllerRule(
    init=_init, plan=_plan, update=_update, queue=_queue, charge=_charge, power_budget=_power_budget
)
_LENGTH_EXIT = LengthExitRule(init=_init, start=_start, limit=_limit, step=_step, update=_update)
_DEPTH_EXIT = DepthExitRule(deeper=_deeper, check=_check_depth)
_DRAFT_SAMPLING = DraftSamplingRule(temperature_scale=_temperature_scale)
