"""One row's books: what a round is planned on, what a draft token costs, what a round did to it all.

Scalars of one row, with no model in sight: the round of a decode `vmap`s them over its rows, and the
simulation of recorded rollouts over its devices, so that both count alike.
"""

import jax.numpy as jnp
from jax import Array

from gelato_jax.control import DraftSignal
from gelato_jax.decoding.records import Account, Memory, Terms, Totals
from gelato_jax.system import Channel
from gelato_jax.types import RoundCost, RoundOutcome, RoundPlan, record


@record
class Happening:
    """What happened in a round of one row."""

    drafted: Array  # [] int32 tokens sent
    accepted: Array  # [] int32
    predicted: Array  # [] acceptance by the calibration, summed over the drafts that were tested
    tokens: Array  # [] int32 emitted
    rejected: Array  # [] bool: the next token is a residual draw, not the bonus
    candidates: Array  # [] int32 draws of p that a device under `candidates` looks at before one is accepted
    caught_up: Array  # [] int32 committed tokens fed to the draft's cache first
    work: Array  # [] summed over the drafted tokens
    support: Array  # [] support sizes of q, summed over the drafted tokens
    exits: Array  # [X] int32 drafted tokens by exit
    active: Array  # [] bool; False for a finished row


def open_account(terms: Terms, memory: Memory, link_key: Array, prompt_tokens: Array) -> Account:
    """A row's books behind its prompt."""
    link = terms.system.link.init(link_key)
    cost = prompt_cost(terms, terms.system.link.observe(link), prompt_tokens)
    return Account(
        round=jnp.ones((), jnp.int32),  # the first token took the uniforms of round 0
        pending_id=jnp.zeros((), jnp.int32),
        link=terms.system.link.advance(link, cost.time_s),
        memory=memory,
        totals=Totals.zero(terms.work.shape[0], cost),
    )


def prompt_cost(terms: Terms, channel: Channel, prompt_tokens: Array) -> RoundCost:
    """What reading a prompt costs."""
    return terms.system.prefill_cost(channel, prompt_tokens=prompt_tokens, vocab_size=terms.vocab_size)


def plan(account: Account, channel: Channel, terms: Terms, max_draft_length: int) -> RoundPlan:
    """The row's outlook and its controller's decision.

    Args:
        account: before the round.
        channel: the link this round.
        terms: rules and world.
        max_draft_length: G.
    """
    # Until a token was drafted, expect full depth and a support of one.
    totals, controller = account.totals, account.memory.controller
    drafted = jnp.maximum(totals.drafted, 1).astype(jnp.float32)
    outlook = terms.system.outlook(
        channel,
        terms.policy.payload,
        vocab_size=terms.vocab_size,
        draft_vocab_size=terms.draft_vocab_size,
        work=jnp.where(totals.drafted > 0, totals.work.value / drafted, 1.0),
        acceptance=terms.policy.controller.forecast(controller, max_draft_length),
        support=jnp.where(totals.drafted > 0, totals.support.value / drafted, 1.0),
        pending_ids=account.pending_id,
    )
    return terms.policy.controller.plan(controller, outlook)


def draft_signal(
    entropy: Array,
    max_probability: Array,
    exit: Array,
    index: Array,
    support: Array,
    plan: RoundPlan,
    channel: Channel,
    terms: Terms,
) -> DraftSignal:
    """What the length exit may know after draft token `index`; arguments as the fields of `DraftSignal`."""
    token_s, token_j = terms.system.token_cost(
        channel,
        terms.policy.payload,
        work=terms.work[exit],
        support=support,
        window=index + 2,
        vocab_size=terms.vocab_size,
        draft_vocab_size=terms.draft_vocab_size,
    )
    return DraftSignal(
        entropy=entropy,
        exit=exit,
        max_probability=max_probability,
        index=index,
        plan=plan,
        token_s=token_s,
        token_j=token_j,
        calibration=terms.calibration,
    )


def settle(
    account: Account, happening: Happening, channel: Channel, length_exit: object, terms: Terms
) -> tuple[Account, RoundOutcome]:
    """Cost a round, teach the rules, and write it down.

    Args:
        account: before the round.
        happening: what it did.
        channel: the link during it.
        length_exit: the length exit's state behind its last step.
        terms: rules and world.

    Returns:
        The account after the round, and what the rules were told.
    """
    policy, active = terms.policy, happening.active
    cost, up, down = _cost(account, happening, channel, terms)
    outcome = RoundOutcome(
        drafted=happening.drafted,
        accepted=jnp.where(active, happening.accepted, 0),
        predicted=jnp.where(active, happening.predicted, 0.0),
        tokens=happening.tokens,
        time_s=jnp.where(active, cost.time_s, 0.0),
        energy_j=jnp.where(active, cost.energy_j, 0.0),
        active=active,
    )
    controller = policy.controller.update(account.memory.controller, outcome)
    memory = Memory(controller=controller, length_exit=policy.length_exit.update(length_exit, outcome))
    bits = (jnp.where(active, up, 0.0), jnp.where(active, down, 0.0))
    settled = Account(
        round=account.round + active,
        pending_id=(active & happening.rejected & policy.payload.draws_on_device).astype(jnp.int32),
        link=terms.system.link.advance(account.link, outcome.time_s),
        memory=memory,
        totals=_add(account.totals, happening, outcome, bits, policy.controller.queue(controller)),
    )
    return settled, outcome


def _cost(account: Account, happening: Happening, channel: Channel, terms: Terms) -> tuple[RoundCost, Array, Array]:
    """Seconds and joules of the round, its bits up, its bits down."""
    payload, rejected = terms.policy.payload, happening.rejected
    asked_again = rejected & (happening.candidates > payload.candidates)
    rows_sent = {"scalar": rejected, "candidates": asked_again}.get(payload.scheme, jnp.zeros_like(rejected))
    up = payload.uplink_bits(
        drafted=happening.drafted,
        support_sum=happening.support,
        vocab_size=terms.vocab_size,
        draft_vocab_size=terms.draft_vocab_size,
        pending_ids=account.pending_id,
    )
    down = payload.downlink_bits(rejected=rejected, rows_sent=rows_sent, vocab_size=terms.vocab_size)
    cost = terms.system.round_cost(
        channel,
        draft_work=happening.work,
        catch_up_tokens=happening.caught_up,
        uplink_bits=up,
        downlink_bits=down,
        window=happening.drafted + 1,
        round_trips=1.0 + (rows_sent if payload.scheme == "candidates" else 0.0),
    )
    return cost, up, down


def _add(
    totals: Totals, happening: Happening, outcome: RoundOutcome, bits: tuple[Array, Array], queue: Array
) -> Totals:
    """The totals after a round; a finished row adds nothing."""
    return Totals(
        rounds=totals.rounds + outcome.active,
        drafted=totals.drafted + outcome.drafted,
        accepted=totals.accepted + outcome.accepted,
        tokens=totals.tokens + outcome.tokens,
        caught_up=totals.caught_up + happening.caught_up,
        exits=totals.exits + happening.exits,
        work=totals.work.add(happening.work),
        support=totals.support.add(happening.support),
        time_s=totals.time_s.add(outcome.time_s),
        energy_j=totals.energy_j.add(outcome.energy_j),
        uplink_bits=totals.uplink_bits.add(bits[0]),
        downlink_bits=totals.downlink_bits.add(bits[1]),
        queue_j=totals.queue_j.add(jnp.where(outcome.active, queue, 0.0)),
        prefill_s=totals.prefill_s,
        prefill_j=totals.prefill_j,
    )


def fresh_memory(terms: Terms) -> Memory:
    """The memory of a row that never asked before."""
    return Memory(
        controller=terms.policy.controller.init(terms.calibration), length_exit=terms.policy.length_exit.init()
    )
