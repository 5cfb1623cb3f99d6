"""Step 2 of a round where the draft is a `Lookup`: text that stood there before is proposed again (prompt lookup).

After n-gram lookup in the prompt (arXiv 2304.04487; prompt lookup decoding, A. Saxena, 2023), with what an energy
controller needs: how far to believe a draft is known by how many tokens repeat, before it is drafted, so the plan of a
round weighs the very drafts that it is about. q is certain of its token; a token is accepted with the chance that the
target gives it, under every payload.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gelato_jax.control.base import where_active
from gelato_jax.decoding.cost import draft_signal
from gelato_jax.decoding.plan import most_drafts
from gelato_jax.decoding.records import DeviceState, Draft, Job, Lookup, RowState, Shapes
from gelato_jax.decoding.repeats import find_slot
from gelato_jax.errors import GelatoError
from gelato_jax.system import Channel
from gelato_jax.types import KNOWN_POSITIONS, Calibration, Calibrations, RoundPlan, number, record

GREEDY_CHANCES = (0.211, 0.536, 0.634, 0.720, 0.761, 0.796, 0.820, 0.937)
"""That the token behind 1 to 8 repeated ones is the target's next: greedy text of SmolLM2-135M, in the corpus that it
wrote (`python -m gelato_experiments.lookup_chances`). Other targets repeat themselves more or less; a row learns it."""
SAMPLED_CHANCES = (0.118, 0.338, 0.442, 0.564, 0.605, 0.657, 0.676, 0.759)
"""The same at temperature 1."""


@record
class _Loop:
    """What the length exit's walk over the tokens found carries."""

    index: Array  # [] int32
    drafting: Array  # [B] bool
    length: Array  # [B] int32 tokens sent
    length_exit: object


def lookup(
    greedy: Sequence[float] = GREEDY_CHANCES, sampled: Sequence[float] = SAMPLED_CHANCES, *, shortest: int = 1
) -> Lookup:
    """A draft without weights.

    Args:
        greedy: `[M]` chance that the token behind 1..M repeated ones is the target's next, in greedy text; inside
            (0, 1), never falling. M tokens are compared at most.
        sampled: `[M]` the same at temperature 1.
        shortest: tokens that must repeat, 1..M.

    Raises:
        GelatoError: a number is out of its range.
    """
    if len(greedy) != len(sampled):
        raise GelatoError(f"lookup: greedy has {len(greedy)} chances and sampled {len(sampled)}, must be as many")
    calibration = Calibrations(
        greedy=_calibration(_chances("greedy", greedy)), sampled=_calibration(_chances("sampled", sampled))
    )
    return Lookup(
        calibration=calibration, shortest=number("shortest", shortest, low=1, high=len(greedy), dtype=jnp.int32)
    )


def outlook(state: DeviceState, job: Job, shapes: Shapes) -> Array:
    """The chance of each draft of a round to come, given the ones before it: `[B, G]`, 0 where nothing repeats."""
    assert isinstance(job.draft, Lookup)
    chances = job.draft.chances(job.sampling.temperature)
    _, count = find_slot(state.tokens, state.length, chances.shape[0])
    return _expected(chances, count, job.draft.shortest, shapes.max_draft_length)


def look_up(
    state: DeviceState, row: RowState, plan: RoundPlan, channel: Channel, job: Job, shapes: Shapes
) -> tuple[Draft, object]:
    """The drafting of a `Lookup`. Arguments as `draft`; returns the draft, and the length exit's state."""
    assert isinstance(job.draft, Lookup)
    draft, exit_rule, size = job.draft, job.policy.length_exit, shapes.max_draft_length
    exit_state = jax.vmap(exit_rule.start)(row.session.length_exit, plan)
    nothing = Draft.nothing(draft, size, state.cache, state.cache_length)
    if size == 0:
        return nothing, exit_state
    chances = draft.chances(job.sampling.temperature)
    slot, count = find_slot(state.tokens, state.length, chances.shape[0])
    expected = _expected(chances, count, draft.shortest, size)
    tokens = _continued(state.tokens, slot, state.length, size)
    most = partial(most_drafts, policy=job.policy, max_draft_length=size)
    limit = jax.vmap(most)(plan, jnp.where(state.done, 0, state.limit - state.length))
    limit = jnp.where(count >= draft.shortest, limit, 0)
    entropy = _entropy(expected)
    ends = jnp.isin(tokens, job.eos_ids)
    one, exits = jnp.ones_like(limit, jnp.float32), jnp.zeros_like(limit)

    def add(loop: _Loop) -> _Loop:
        i = loop.index
        signal = jax.vmap(draft_signal, (0, 0, 0, None, 0, 0, 0, None))(
            entropy[:, i], expected[:, i], exits, i, one, plan, channel, job.setup
        )
        length_exit, stop = jax.vmap(exit_rule.step)(loop.length_exit, signal)
        return _Loop(
            index=i + 1,
            drafting=loop.drafting & ~stop & ~ends[:, i] & (i + 1 < limit),
            length=loop.length + loop.drafting,
            length_exit=jax.vmap(where_active)(loop.drafting, length_exit, loop.length_exit),
        )

    start = _Loop(
        index=jnp.zeros((), jnp.int32), drafting=limit > 0, length=jnp.zeros_like(limit), length_exit=exit_state
    )
    loop = lax.while_loop(lambda loop: loop.drafting.any(), add, start)
    proposal = dataclasses.replace(nothing.proposal, tokens=tokens, length=loop.length, repeated=tokens)
    sent = jnp.arange(size) < loop.length[:, None]
    made = dataclasses.replace(
        nothing,
        proposal=proposal,
        entropy=jnp.where(sent, entropy, 0.0),
        max_probability=expected,
        support=loop.length.astype(jnp.float32),
    )
    return made, loop.length_exit


def _continued(tokens: Array, slot: Array, length: Array, size: int) -> Array:
    """The text from `slot [B]` on, `[B, size]`; behind its end `length [B]` it is what was copied by then."""
    period = jnp.maximum(length - slot, 1)
    slots = slot[:, None] + jnp.arange(size) % period[:, None]
    return jnp.take_along_axis(tokens, slots, axis=1, mode="clip")


def _expected(chances: Array, count: Array, shortest: Array, size: int) -> Array:
    """`[B, size]` chances of the drafts behind `count [B]` repeated tokens: an accepted one is one more of them."""
    repeated = jnp.clip(count[:, None] + jnp.arange(size), 1, chances.shape[0])
    return jnp.where(count[:, None] >= shortest, chances[repeated - 1], 0.0)


def _entropy(chance: Array) -> Array:
    """Nats that stand for a chance where rules ask for an entropy: min-entropy, -log of the largest probability."""
    return -jnp.log(jnp.maximum(chance, 1e-6))


def _chances(name: str, values: Sequence[float]) -> Array:
    given = np.asarray(values, np.float64)
    if given.ndim != 1 or not given.size or not (np.diff(given) >= 0).all() or not (0 < given[0] <= given[-1] < 1):
        raise GelatoError(f"lookup: {name} is {list(values)}, must be chances inside (0, 1) that never fall")
    return jnp.asarray(given, jnp.float32)


def _calibration(chances: Array) -> Calibration:
    """alpha(H) = exp(-H), for H is min-entropy here; a class for each number of repeated tokens, most of them first."""
    entropies = _entropy(chances)[::-1]
    by_class = chances[::-1]
    after = jnp.append(by_class[:1], by_class[:-1])  # an accepted draft is one more repeated token
    one = jnp.ones((1,), jnp.float32)
    return Calibration(
        scale=one,
        decay=one,
        mean_acceptance=chances.mean(),  # as if each number of repeated tokens were as frequent; assumed
        class_edges=(entropies[1:] + entropies[:-1]) / 2,
        class_acceptance=by_class[None],
        next_acceptance=after,
        deeper_acceptance=by_class[None, :, None],
        conditional_acceptance=jnp.full((KNOWN_POSITIONS,), chances.mean()),
    )
