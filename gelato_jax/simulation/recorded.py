"""Device and edge as a recording shows them: the two ends of `decoding.round.run_round` for one simulated device.

Drafts and verdicts are read from rollouts; plan, costs and rules are the decoder's own, for the round is the same
function. Greedy rollouts at one depth replay exactly. Two things are approximate:

- sampled text: after an accepted draft the recorded text goes on, not the drafted one; what a round does
  has the right distribution at every position, but positions do not follow from one another's draws;
- depth by token: token i at exit e is token i of the rollout that stayed at e all along, and the exit's
  check sees that exit's entropy, not its probe.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from gelato_jax import keys
from gelato_jax.control import DepthSignal, acceptance_at
from gelato_jax.control.base import where_active
from gelato_jax.decoding.cost import draft_signal
from gelato_jax.decoding.records import Committed, Drafted, Effort, RowState, Setup
from gelato_jax.payloads.candidates import Candidates
from gelato_jax.simulation.recording import Rollouts
from gelato_jax.system import Channel
from gelato_jax.types import RoundPlan, record


@record
class DeviceState:
    """What a simulated device carries from round to round."""

    key: Array  # random key of the device
    text: Array  # [] int32 row of the recording
    position: Array  # [] int32 tokens committed, less the first
    done: Array  # [] bool
    acceptable: Array  # [] int32 drafts that the last round would have accepted of all G


@record
class Verdict:
    """What a recording knows of a round: the device's message and the edge's answer in one."""

    accepted: Array  # [] int32 leading drafts that are accepted
    streamed: Array  # [] int32 tokens ahead of the next one where there were no drafts
    overlap: Array  # [] sum of min(p, q) at the first one that does not


@record
class _Loop:
    """What the drafting of a round carries from token to token."""

    drafting: Array  # [] bool
    length: Array  # [] int32 tokens sent
    survival: Array  # [] chance, as the device sees it, that every token so far is accepted
    predicted: Array  # [] acceptance by the calibration, summed over the tokens that are tested
    alive: Array  # [] chance that it is
    accepted: Array  # [] int32 tokens sent whose `alive` is over the round's uniform
    acceptable: Array  # [] int32 the same of all tokens, sent or not
    overlap: Array  # [] sum of min(p, q) at the first token that is not
    work: Array
    support: Array
    exits: Array  # [X] int32
    length_exit: object

    @classmethod
    def start(cls, drafting: Array, length_exit: object, exits: int) -> "_Loop":
        """Nothing drafted yet."""
        one, zero, count = jnp.ones(()), jnp.zeros(()), jnp.zeros((), jnp.int32)
        return cls(
            drafting=drafting,
            length=count,
            survival=one,
            predicted=zero,
            alive=one,
            accepted=count,
            acceptable=count,
            overlap=zero,
            work=zero,
            support=zero,
            exits=jnp.zeros((exits,), jnp.int32),
            length_exit=length_exit,
        )


class RecordedDrafter(NamedTuple):
    """Drafts from the rollouts at the device's position."""

    rollouts: Rollouts
    setup: Setup  # rules, and the world as the device believes it to be
    max_draft_length: int

    def outlook(self, state: DeviceState) -> None:
        """See `decoding.round.Drafter`."""
        del state

    def draft(self, state: DeviceState, row: RowState, plan: RoundPlan, channel: Channel) -> tuple[Drafted, Verdict]:
        """See `decoding.round.Drafter`."""
        loop = _roll_out(state, row, plan, channel, *self)
        effort = Effort(
            length=loop.length,
            work=loop.work,
            support=loop.support,
            exits=loop.exits,
            caught_up=jnp.where(loop.length > 0, row.lag, 0),
            length_exit=loop.length_exit,
        )
        streamed = jnp.where(loop.length > 0, 0, jnp.minimum(plan.stream_length, self.max_draft_length + 1) - 1)
        verdict = Verdict(accepted=loop.accepted, streamed=streamed, overlap=loop.overlap)
        return Drafted(effort=effort, own=loop), verdict

    def commit(
        self, state: DeviceState, row: RowState, drafted: Drafted, downlink: Verdict, ask: Callable[[], Array]
    ) -> tuple[DeviceState, Committed]:
        """See `decoding.round.Drafter`; nothing is asked for, for nothing is drawn."""
        del ask
        loop: _Loop = drafted.own
        length = self.rollouts.positions[state.text]
        ahead = downlink.accepted + downlink.streamed
        tokens = jnp.where(state.done, 0, jnp.minimum(ahead + 1, length - state.position))
        rejected = (downlink.accepted < loop.length) & (tokens == downlink.accepted + 1)
        position = state.position + tokens
        done = state.done | (position >= length)
        after = dataclasses.replace(state, position=position, done=done, acceptable=loop.acceptable)
        committed = Committed(
            accepted=jnp.minimum(downlink.accepted, tokens),
            tokens=tokens,
            passes=jnp.where(downlink.streamed > 0, tokens, 1),  # a stream ends with the text
            rejected=rejected,
            asked=rejected & self._asks(state, row, downlink),
            predicted=loop.predicted,
            pending=(rejected & self.setup.policy.payload.draws_on_device).astype(jnp.int32),
            done=done,
            fault=jnp.zeros_like(done),
            ids=None,
        )
        return after, committed

    def active(self, state: DeviceState) -> Array:
        """See `decoding.round.Drafter`."""
        return ~state.done

    def _asks(self, state: DeviceState, row: RowState, downlink: Verdict) -> Array:
        """Whether none of the candidates is accepted, [] bool: each is with chance 1 - overlap."""
        payload = self.setup.policy.payload
        if not isinstance(payload, Candidates):
            return jnp.zeros((), jnp.bool_)
        return _uniform(state, row, keys.Use.CANDIDATES) < downlink.overlap ** float(payload.count)


class RecordedVerifier(NamedTuple):
    """Answers with the recorded verdict. It carries nothing."""

    def verify(self, state: None, uplink: Verdict) -> tuple[None, Verdict]:
        """See `decoding.round.Verifier`."""
        return state, uplink

    def row(self, state: None) -> Array:
        """A recording holds no rows."""
        raise NotImplementedError("a recording holds no rows of the target")


def _roll_out(
    state: DeviceState,
    row: RowState,
    plan: RoundPlan,
    channel: Channel,
    rollouts: Rollouts,
    setup: Setup,
    max_draft_length: int,
) -> _Loop:
    """Draft token by token, as `decoding.draft` does, from the rollouts at the device's position."""
    rule = setup.policy.length_exit
    limit = jnp.minimum(
        rule.limit(plan, max_draft_length), jnp.maximum(rollouts.limit[state.text] - state.position - 1, 0)
    )
    limit = jnp.where(state.done, 0, limit)
    left = rollouts.positions[state.text] - state.position
    at = lambda leaf: leaf[state.text, state.position, :, :max_draft_length].T  # noqa: E731
    steps = (at(rollouts.entropy), at(rollouts.max_probability), at(rollouts.chance), at(rollouts.overlap))
    ends = rollouts.ends[state.text, state.position]
    # One uniform a round: P(accepted >= i) is the product of the first i chances.
    uniform = _uniform(state, row, keys.Use.ACCEPT)
    loop = _Loop.start(limit > 0, rule.start(row.session.length_exit, plan), setup.work.shape[0])

    def step(loop: _Loop, token) -> tuple[_Loop, None]:
        index, entropies, confidences, chances, overlaps, supports = token
        exit = _depth(entropies, loop, plan, setup)
        entropy, support = _at(entropies, exit), _at(supports, exit).astype(jnp.float32)
        acceptance = acceptance_at(setup.calibration, entropy, exit, plan.acceptance_level)
        calibrated = acceptance_at(setup.calibration, entropy, exit, 1.0)
        signal = draft_signal(entropy, _at(confidences, exit), exit, index, support, plan, channel, setup)
        length_exit, stop = rule.step(loop.length_exit, signal)
        stop = stop | (_at(ends, exit) == index)
        sent, alive = loop.drafting, loop.alive * _at(chances, exit)
        accepted = sent & (uniform < alive)
        tested = sent & (loop.accepted == index) & (index < left)
        return _Loop(
            drafting=sent & ~stop & (index + 1 < limit),
            length=loop.length + sent,
            survival=loop.survival * acceptance,
            predicted=loop.predicted + jnp.where(tested, calibrated, 0.0),
            alive=alive,
            accepted=loop.accepted + accepted,
            acceptable=loop.acceptable + (uniform < alive),
            overlap=jnp.where(loop.accepted == index, _at(overlaps, exit), loop.overlap),
            work=loop.work + jnp.where(sent, _at(setup.work, exit), 0.0),
            support=loop.support + jnp.where(sent, support, 0.0),
            exits=loop.exits + (sent & (jnp.arange(loop.exits.shape[0]) == exit)),
            length_exit=where_active(sent, length_exit, loop.length_exit),
        ), None

    tokens = (jnp.arange(max_draft_length), *steps, at(rollouts.support))
    return lax.scan(step, loop, tokens)[0]


def _depth(entropies: Array, loop: _Loop, plan: RoundPlan, setup: Setup) -> Array:
    """The exit that the depth rule takes for a token, [] int32."""
    device = setup.system.device
    exit = jnp.zeros((), jnp.int32)
    moving = jnp.ones((), jnp.bool_)
    for index in range(setup.work.shape[0] - 1):
        work = setup.work[index + 1] - setup.work[index]
        signal = DepthSignal(
            entropy=entropies[index],
            exit=jnp.asarray(index, jnp.int32),
            survival=loop.survival,
            segment_s=work * device.token_s,
            segment_j=work * device.token_j,
            plan=plan,
            calibration=setup.calibration,
        )
        moving = moving & setup.policy.depth_exit.deeper(signal)
        exit = exit + moving
    return exit


def _uniform(state: DeviceState, row: RowState, use: int) -> Array:
    return keys.round_uniforms(state.key[None], row.round[None], use, ())[0]


def _at(values: Array, index: Array) -> Array:
    """`values[index]` of a few values, without a gather."""
    chosen = values[0]
    for number in range(1, values.shape[0]):
        chosen = jnp.where(index == number, values[number], chosen)
    return chosen
