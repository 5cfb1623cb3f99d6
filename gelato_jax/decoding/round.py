"""One round of device-edge speculative decoding, in a straight line. Only this file knows the order.

plan -> draft -> uplink -> verify -> commit -> cost -> update

Device and edge meet in two messages alone, and come as objects of the two protocols below: the models of this
process (`ends`), a recording (`simulation.recorded`), or another machine (`remote`, which calls the two halves itself).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from gelato_jax.decoding.cost import observe
from gelato_jax.decoding.plan import plan
from gelato_jax.decoding.records import Committed, DecodeState, Drafted, RowState, Setup
from gelato_jax.decoding.update import update
from gelato_jax.system import Channel
from gelato_jax.types import Observation, RoundPlan


class Drafter(Protocol):
    """The device's end of a round."""

    def outlook(self, state: Any) -> Array | None:
        """`[B, G]` chance of each draft of the round to come, given the ones before it; None where it is not known."""
        ...

    def draft(self, state: Any, row: RowState, plan: RoundPlan, channel: Channel) -> tuple[Drafted, Any]:
        """Draft under a plan: the effort, and the message for the edge. The state does not change before `commit`."""
        ...

    def commit(
        self, state: Any, row: RowState, drafted: Drafted, downlink: Any, ask: Callable[[], Array]
    ) -> tuple[Any, Committed]:
        """Take the edge's answer in: the state after the round, and what entered the text.

        `ask` fetches the target's row after the accepted drafts, at the cost of another round trip.
        """
        ...

    def active(self, state: Any) -> Array:
        """Which rows still take part, bool."""
        ...


class Verifier(Protocol):
    """The edge's end of a round."""

    def verify(self, state: Any, uplink: Any) -> tuple[Any, Any]:
        """Score what came: the state after the round, and the answer."""
        ...

    def row(self, state: Any) -> Array:
        """The target's row at the last answer's rejection, `[B, V]`."""
        ...


class Begun(NamedTuple):
    """The device's round between its message and the answer."""

    plan: RoundPlan  # leaves [B]
    channel: Channel  # leaves [B]
    drafted: Drafted


Rows = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Maps a function of one row over the rows; the identity where there is one alone."""


def run_round(
    state: DecodeState,
    device: Drafter,
    edge: Verifier,
    setup: Setup,
    max_draft_length: int,
    *,
    believed: Setup | None = None,
    rows: Rows = jax.vmap,
) -> tuple[DecodeState, Observation]:
    """Run one round for every row; a finished row stands still.

    Args:
        state: what the last round left.
        device: drafts and commits.
        edge: verifies.
        setup: rules, and the world as it is.
        max_draft_length: G.
        believed: the world as the device believes it to be; as it is if not given.
        rows: see `Rows`.

    Returns:
        The next state, and what was observed.
    """
    begun, uplink = begin_round(state, device, setup, max_draft_length, believed=believed, rows=rows)
    edge_state, downlink = edge.verify(state.edge, uplink)
    state, seen, _ = end_round(state, begun, downlink, lambda: edge.row(edge_state), device, setup, rows=rows)
    return dataclasses.replace(state, edge=edge_state), seen


def begin_round(
    state: DecodeState,
    device: Drafter,
    setup: Setup,
    max_draft_length: int,
    *,
    least: Array | int = 0,
    believed: Setup | None = None,
    rows: Rows = jax.vmap,
) -> tuple[Begun, Any]:
    """The device's half ahead of the air: plan -> draft -> uplink. Arguments as `run_round`; of `state` all but `edge`.

    `least` [] int32 is a budget that holds whatever the controller says, for a device whose edge is away.

    Returns:
        What `end_round` goes on with, and the message for the edge.
    """
    channel = rows(setup.system.link.observe)(state.row.link)
    expect = partial(plan, setup=believed or setup, max_draft_length=max_draft_length)
    planned = rows(expect)(state.row, channel, device.outlook(state.device))
    planned = dataclasses.replace(planned, draft_budget=jnp.maximum(planned.draft_budget, least))
    drafted, uplink = device.draft(state.device, state.row, planned, channel)
    return Begun(planned, channel, drafted), uplink


def end_round(
    state: DecodeState,
    begun: Begun,
    downlink: Any,
    ask: Callable[[], Array],
    device: Drafter,
    setup: Setup,
    *,
    rows: Rows = jax.vmap,
) -> tuple[DecodeState, Observation, Committed]:
    """The device's half behind it: commit -> cost -> update. Arguments as `run_round` and `Drafter.commit`.

    Returns:
        The state, its `edge` as it was; what was observed; and what entered the text.
    """
    row, drafted = state.row, begun.drafted
    active = device.active(state.device)
    device_state, committed = device.commit(state.device, row, drafted, downlink, ask)
    observed = rows(partial(observe, setup=setup))(row, begun.plan, begun.channel, drafted.effort, committed, active)
    row, seen = rows(partial(update, setup=setup))(row, begun.plan, observed, drafted.effort, committed)
    return dataclasses.replace(state, device=device_state, row=row), seen, committed
