"""EdgeLLM's length exit without its token tree. See `base.LengthExit` for the call."""

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DraftSignal, LengthExit
from gelato_jax.control.length_exits import none
from gelato_jax.types import Observation, RoundPlan, number, record

LOWEST, HIGHEST = 0.01, 0.99  # assumed: a threshold between them neither vanishes nor stops every draft


@record
class EdgeState:
    """A threshold that verified rounds tune, and the round's own confidence."""

    threshold: Array  # []
    confidence: Array  # [] product of max q over the round's tokens


def edgellm_no_tree(threshold: ArrayLike = 0.5) -> LengthExit:
    """Stop if prod_{j<=i} max q_j < threshold, self-tuned (EdgeLLM, 10.1109/TMC.2024.3513457).

    From memory, full text not at hand: after a round with all accepted, threshold *= 0.5; else threshold /=
    0.5^((drafted - accepted) / drafted). Ours: kept in LOWEST..HIGHEST, and by a round without drafts.
    Simplified: EdgeLLM drafts a token tree, wider where the draft is unsure, and goes on drafting while
    the target verifies (from memory); here one sequence, in turns. The token that trips it is sent.

    Args:
        threshold: at first, LOWEST..HIGHEST (else GelatoError); the default is assumed.
    """
    return LengthExit(params=number("threshold", threshold, low=LOWEST, high=HIGHEST), rule=_EDGELLM)


def _init(params: Array) -> EdgeState:  # a copy: states are donated, params are not
    return EdgeState(threshold=jnp.array(params), confidence=jnp.ones((), jnp.float32))


def _start(params: Array, state: EdgeState, plan: RoundPlan) -> EdgeState:
    return dataclasses.replace(state, confidence=jnp.ones_like(state.confidence))


def _step(params: Array, state: EdgeState, signal: DraftSignal) -> tuple[EdgeState, Array]:
    confidence = state.confidence * signal.max_probability
    return dataclasses.replace(state, confidence=confidence), confidence < state.threshold


def _update(params: Array, state: EdgeState, outcome: Observation) -> EdgeState:
    refused = outcome.rejected * (outcome.drafted - outcome.accepted) / jnp.maximum(outcome.drafted, 1)
    tuned = state.threshold * jnp.where(refused > 0, jnp.exp2(refused), 0.5)
    tuned = jnp.where(outcome.drafted > 0, jnp.clip(tuned, LOWEST, HIGHEST), state.threshold)
    return dataclasses.replace(state, threshold=tuned)


_EDGELLM = none().rule._replace(init=_init, start=_start, step=_step, update=_update)
