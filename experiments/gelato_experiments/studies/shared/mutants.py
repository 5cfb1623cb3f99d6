"""Drift-plus-penalty rules with one part taken out: what a check of the theory has to refuse.

What is taken out is data, so that all mutants of a rule, and the rule itself, are one program.
"""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gelato_jax.control import Controller, ControllerRule
from gelato_jax.types import AcceptanceForecast, Compensated, CostTable, Observation, RoundPlan, number, record


@record
class MutantParams:
    """A rule's numbers, and which of its parts it still has."""

    whole: Any  # the rule's own params
    keeps_queue: Array  # [] bool; False: the queue is emptied after every round
    counts_allowance: Array  # [] bool; False: Q' = Q + E, nothing is allowed for
    heeds_queue: Array  # [] bool; False: plans are made as if the queue were empty
    learns_rate: Array  # [] bool; False: theta stays what the first round gave


def mutant(
    controller: Controller,
    *,
    keeps_queue: bool = True,
    counts_allowance: bool = True,
    heeds_queue: bool = True,
    learns_rate: bool = True,
) -> Controller:
    """Take parts out of `control.ratio` or `control.gelato`.

    Args:
        controller: whole, with a finite budget.
        keeps_queue: what was overspent is remembered.
        counts_allowance: a round's allowance is taken from the queue.
        heeds_queue: plans price joules at the queue.
        learns_rate: theta follows sum(N)/sum(T).
    """
    parts = {
        "keeps_queue": keeps_queue,
        "counts_allowance": counts_allowance,
        "heeds_queue": heeds_queue,
        "learns_rate": learns_rate,
    }
    flags = {name: number(name, value, dtype=jnp.bool_) for name, value in parts.items()}
    params = MutantParams(whole=controller.params, **flags)
    return Controller(params=params, estimator=controller.estimator, rule=_rule(controller.rule))


@cache
def _rule(whole: ControllerRule) -> ControllerRule:
    """The functions around a rule's; one tuple for each rule, for it is part of a program's structure."""

    def init(params: MutantParams) -> Any:
        return whole.init(params.whole)

    def plan(params: MutantParams, state: Any, cost_table: CostTable, forecast: AcceptanceForecast) -> RoundPlan:
        queue = _if(params.heeds_queue, state.queue, Compensated.zero())
        return whole.plan(params.whole, dataclasses.replace(state, queue=queue), cost_table, forecast)

    def update(params: MutantParams, state: Any, outcome: Observation) -> Any:
        allowed = params.counts_allowance
        numbers = dataclasses.replace(
            params.whole,
            energy_budget_j=jnp.where(allowed, params.whole.energy_budget_j, 0.0),
            power_budget_w=jnp.where(allowed, params.whole.power_budget_w, 0.0),
        )
        moved = whole.update(numbers, state, outcome)
        learns = params.learns_rate | (state.seconds.value <= 0)
        return dataclasses.replace(
            moved,
            queue=_if(params.keeps_queue, moved.queue, Compensated.zero()),
            tokens=_if(learns, moved.tokens, state.tokens),
            seconds=_if(learns, moved.seconds, state.seconds),
        )

    def queue(params: MutantParams, state: Any) -> Array:
        return whole.queue(params.whole, state)

    def charge(params: MutantParams, state: Any, outcome: Observation) -> Any:
        moved = whole.charge(params.whole, state, outcome)
        return dataclasses.replace(moved, queue=_if(params.keeps_queue, moved.queue, Compensated.zero()))

    return ControllerRule(init=init, plan=plan, update=update, queue=queue, charge=charge)


def _if(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda left, right: jnp.where(condition, left, right), yes, no)
