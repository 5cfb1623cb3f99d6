"""DISCO's length exit as transformers has it. See `base.LengthExit` for the call."""

import dataclasses

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.control.base import DraftSignal, LengthExit
from gelato_jax.control.length_exits import none
from gelato_jax.types import Observation, number, record

BINS, LONGEST = 64, 32  # thresholds are multiples of 1/64 (assumed); no draft is longer
FEWEST, MISS_COST = 5, 3.0  # transformers: refit from more than 5 tokens, by FPR + 3 FNR


@record
class RocState:
    """The threshold, this round's confidences, and all verified tokens by confidence."""

    threshold: Array  # [] c
    confidences: Array  # [LONGEST]
    counts: Array  # [2, BINS] int32 tokens that matched, tokens that did not


def confidence_roc(threshold: ArrayLike = 0.4) -> LengthExit:
    """Stop if max q < c; c minimises FPR + 3 FNR over all tokens verified so far (arXiv 2405.04304).

    As in transformers (PR 33258, 34156), which starts at the default: the paper trains a classifier, here confidence
    itself is the score. The refused token did not match; those after it are unknown. c moves once over 5 tokens, of
    both kinds, are known. Simplified: c is an edge of a bin, not a confidence seen; max q stands for the drawn
    token's q, which is the same in greedy decoding. The token that trips it is sent. GelatoError if c is not in 0..1.
    """
    return LengthExit(params=number("threshold", threshold, low=0.0, high=1.0), rule=_CONFIDENCE_ROC)


def _init(params: Array) -> RocState:  # a copy: states are donated, params are not
    return RocState(threshold=jnp.array(params), confidences=jnp.zeros(LONGEST), counts=jnp.zeros((2, BINS), jnp.int32))


def _step(params: Array, state: RocState, signal: DraftSignal) -> tuple[RocState, Array]:
    seen = jnp.where(jnp.arange(LONGEST) == signal.index, signal.max_probability, state.confidences)
    return dataclasses.replace(state, confidences=seen), signal.max_probability < state.threshold


def _update(params: Array, state: RocState, outcome: Observation) -> RocState:
    index, bins = jnp.arange(LONGEST), jnp.clip((state.confidences * BINS).astype(jnp.int32), 0, BINS - 1)
    kinds = jnp.stack([index < outcome.accepted, (index == outcome.accepted) & outcome.rejected])
    counts = state.counts.at[:, bins].add(kinds.astype(jnp.int32))
    (matched, unmatched), (hits, misses) = counts, counts.sum(axis=1)
    below, above = jnp.cumsum(matched) - matched, misses - jnp.cumsum(unmatched) + unmatched
    cost = above / jnp.maximum(misses, 1) + MISS_COST * below / jnp.maximum(hits, 1)  # at c = bin / BINS
    best = (BINS - 1 - jnp.argmin(cost[::-1])) / BINS  # of equals the highest, as in transformers
    known = (hits + misses > FEWEST) & (hits > 0) & (misses > 0)
    threshold = jnp.where(known, best, state.threshold).astype(jnp.float32)
    return dataclasses.replace(state, threshold=threshold, counts=counts)


_CONFIDENCE_ROC = none().rule._replace(init=_init, step=_step, update=_update)
