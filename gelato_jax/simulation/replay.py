"""A round of one simulated device: drafting and verification are read from a recording, all else is the real loop's.

The same straight line as `decoding/round.py`: plan -> draft -> verify -> commit -> settle. Greedy rollouts
at one depth replay exactly. Two things are approximate:

- sampled text: behind an accepted draft the recorded text goes on, not the drafted one; what a round does
  has the right law at every position, but positions do not follow from one another's draws;
- depth by token: token i at exit e is token i of the rollout that stayed at e all along, and the exit's
  check sees that exit's entropy, not its probe.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from gelato_jax.control import DepthSignal, acceptance_at
from gelato_jax.control.base import where_active
from gelato_jax.decoding import accounting, keys
from gelato_jax.decoding.records import Account, Terms
from gelato_jax.decoding.verify import candidates_seen
from gelato_jax.simulation.recording import Rollouts
from gelato_jax.system import Channel
from gelato_jax.types import RoundOutcome, RoundPlan, record


@record
class Device:
    """What a simulated device carries from round to round."""

    account: Account
    key: Array  # random key of the device
    text: Array  # [] int32 row of the recording
    position: Array  # [] int32 tokens committed, less the first
    lag: Array  # [] int32 committed tokens that the draft's cache has not seen
    requests: Array  # [] int32 texts begun
    done: Array  # [] bool
    mode: Array  # [] int32 of the environment


@record
class Report:
    """What a round of one device reports and nobody carries."""

    budget: Array  # [] int32
    outcome: RoundOutcome
    queue_j: Array  # [] after the round
    uplink_bps: Array  # []
    rejection_level: Array  # [] the controller's estimate: rejections relative to the calibration's
    text: Array  # [] int32
    standing: Array  # [] int32 drafts that would stand if all G were sent


@record
class _Loop:
    """What the drafting of a round carries from token to token."""

    drafting: Array  # [] bool
    length: Array  # [] int32 tokens sent
    survival: Array  # [] chance, as the device sees it, that every token so far is accepted
    predicted: Array  # [] acceptance by the calibration, summed over the tokens that are tested
    alive: Array  # [] chance that it is
    accepted: Array  # [] int32 tokens sent whose `alive` is over the round's uniform
    standing: Array  # [] int32 the same of all tokens, sent or not
    overlap: Array  # [] sum of min(p, q) at the first token that is not
    work: Array
    support: Array
    exits: Array  # [X] int32
    length_exit: object


def replay_round(
    device: Device, rollouts: Rollouts, believed: Terms, actual: Terms, max_draft_length: int
) -> tuple[Device, Report]:
    """Run one round of one device; one that is done stands still.

    Args:
        device: what the last round left.
        rollouts: the recording.
        believed: rules, and the world as the device believes it to be: plans and prices follow from it.
        actual: the same rules in the world as it is: seconds and joules follow from it.
        max_draft_length: G, at most the recording's.

    Returns:
        The device after the round, and the round's report.
    """
    account = device.account
    channel = actual.system.link.observe(account.link)
    plan = accounting.plan(account, channel, believed, max_draft_length)
    drafted = _draft(device, plan, channel, rollouts, believed, max_draft_length)
    happening = _happening(device, drafted, rollouts, actual)
    settled, outcome = accounting.settle(account, happening, channel, drafted.length_exit, actual)
    position = device.position + outcome.tokens
    # The draft's cache holds what was drafted from; behind a bonus token it lags by one.
    behind = jnp.maximum(outcome.tokens - outcome.drafted, 0)
    lag = jnp.where(outcome.drafted > 0, behind, device.lag + outcome.tokens)
    queue = actual.policy.controller.queue(settled.memory.controller)
    report = Report(
        budget=plan.draft_budget,
        outcome=outcome,
        queue_j=queue,
        uplink_bps=channel.uplink_bps,
        rejection_level=jnp.asarray(plan.rejection_level, jnp.float32),
        text=device.text,
        standing=drafted.standing,
    )
    done = device.done | (position >= rollouts.positions[device.text])
    after = dataclasses.replace(device, account=settled, position=position, lag=lag, done=done)
    return after, report


def _draft(
    device: Device, plan: RoundPlan, channel: Channel, rollouts: Rollouts, terms: Terms, max_draft_length: int
) -> _Loop:
    """Draft token by token, as `decoding.draft` does, from the rollouts at the device's position."""
    rule = terms.policy.length_exit
    limit = jnp.minimum(
        rule.limit(plan, max_draft_length), jnp.maximum(rollouts.limit[device.text] - device.position - 1, 0)
    )
    limit = jnp.where(device.done, 0, limit)
    at = lambda leaf: leaf[device.text, device.position, :, :max_draft_length].T  # noqa: E731
    steps = (at(rollouts.entropy), at(rollouts.max_probability), at(rollouts.chance), at(rollouts.overlap))
    # One uniform a round: P(accepted >= i) is the product of the first i chances.
    uniform = _uniform(device, keys.Use.ACCEPT)
    one, zero, count = jnp.ones(()), jnp.zeros(()), jnp.zeros((), jnp.int32)
    loop = _Loop(
        drafting=limit > 0,
        length=count,
        survival=one,
        predicted=zero,
        alive=one,
        accepted=count,
        standing=count,
        overlap=zero,
        work=zero,
        support=zero,
        exits=jnp.zeros(terms.work.shape, jnp.int32),
        length_exit=rule.start(device.account.memory.length_exit, plan),
    )

    def step(loop: _Loop, token) -> tuple[_Loop, None]:
        index, entropies, confidences, chances, overlaps, supports = token
        exit = _depth(entropies, loop, plan, terms)
        entropy, support = _at(entropies, exit), _at(supports, exit).astype(jnp.float32)
        acceptance = acceptance_at(terms.calibration, entropy, exit, plan.acceptance_level)
        calibrated = acceptance_at(terms.calibration, entropy, exit, 1.0)
        signal = accounting.draft_signal(entropy, _at(confidences, exit), exit, index, support, plan, channel, terms)
        length_exit, stop = rule.step(loop.length_exit, signal)
        sent, alive = loop.drafting, loop.alive * _at(chances, exit)
        stands = sent & (uniform < alive)
        return _Loop(
            drafting=sent & ~stop & (index + 1 < limit),
            length=loop.length + sent,
            survival=loop.survival * acceptance,
            predicted=loop.predicted + jnp.where(sent & (loop.accepted == index), calibrated, 0.0),
            alive=alive,
            accepted=loop.accepted + stands,
            standing=loop.standing + (uniform < alive),
            overlap=jnp.where(loop.accepted == index, _at(overlaps, exit), loop.overlap),
            work=loop.work + jnp.where(sent, _at(terms.work, exit), 0.0),
            support=loop.support + jnp.where(sent, support, 0.0),
            exits=loop.exits + (sent & (jnp.arange(loop.exits.shape[0]) == exit)),
            length_exit=where_active(sent, length_exit, loop.length_exit),
        ), None

    tokens = (jnp.arange(max_draft_length), *steps, at(rollouts.support))
    return lax.scan(step, loop, tokens)[0]


def _depth(entropies: Array, loop: _Loop, plan: RoundPlan, terms: Terms) -> Array:
    """The exit that the depth rule takes for a token, [] int32."""
    device = terms.system.device
    exit = jnp.zeros((), jnp.int32)
    moving = jnp.ones((), jnp.bool_)
    for index in range(terms.work.shape[0] - 1):
        work = terms.work[index + 1] - terms.work[index]
        signal = DepthSignal(
            entropy=entropies[index],
            exit=jnp.asarray(index, jnp.int32),
            survival=loop.survival,
            segment_s=work * device.token_s,
            segment_j=work * device.token_j,
            plan=plan,
            calibration=terms.calibration,
        )
        moving = moving & terms.policy.depth_exit.deeper(signal)
        exit = exit + moving
    return exit


def _happening(device: Device, drafted: _Loop, rollouts: Rollouts, terms: Terms) -> accounting.Happening:
    rejected = drafted.accepted < drafted.length
    candidates = jnp.ones((), jnp.int32)
    if terms.policy.payload.scheme == "candidates":
        candidates = candidates_seen(1.0 - drafted.overlap, _uniform(device, keys.Use.CANDIDATES))
    left = rollouts.positions[device.text] - device.position
    return accounting.Happening(
        drafted=drafted.length,
        accepted=drafted.accepted,
        predicted=drafted.predicted,
        tokens=jnp.where(device.done, 0, jnp.minimum(drafted.accepted + 1, left)),
        rejected=rejected,
        candidates=candidates,
        caught_up=jnp.where(drafted.length > 0, device.lag, 0),
        work=drafted.work,
        support=drafted.support,
        exits=drafted.exits,
        active=~device.done,
    )


def _uniform(device: Device, use: int) -> Array:
    return keys.round_uniforms(device.key[None], device.account.round[None], use, ())[0]


def _at(values: Array, index: Array) -> Array:
    """`values[index]` of a few values, without a gather."""
    chosen = values[0]
    for number in range(1, values.shape[0]):
        chosen = jnp.where(index == number, values[number], chosen)
    return chosen
