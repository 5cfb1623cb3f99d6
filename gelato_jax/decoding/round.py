"""One round of device-edge speculative decoding, in a straight line. Only this file knows the order.

plan -> draft -> uplink -> verify -> commit -> cost -> update

Device and edge meet in two messages alone, and come as objects of the two protocols below: the models of this
process (`ends`), a recording (`simulation.recorded`), or something that reaches another machine.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
from jax import Array

from gelato_jax.decoding.cost import observe
from gelato_jax.decoding.plan import plan
from gelato_jax.decoding.records import Committed, DecodeState, Drafted, RowState, Setup
from gelato_jax.decoding.update import update
from gelato_jax.system import Channel
from gelato_jax.types import Observation, RoundPlan


class Drafter(Protocol):
    """The device's end of a round."""

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


def run_round(
    state: DecodeState,
    device: Drafter,
    edge: Verifier,
    setup: Setup,
    max_draft_length: int,
    *,
    believed: Setup | None = None,
    rows: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.vmap,
) -> tuple[DecodeState, Observation]:
    """Run one round for every row; a finished row stands still.

    Args:
        state: what the last round left.
        device: drafts and commits.
        edge: verifies.
        setup: rules, and the world as it is.
        max_draft_length: G.
        believed: the world as the device believes it to be; as it is if not given.
        rows: maps a function of one row over the rows; the identity where there is one alone.

    Returns:
        The next state, and what was observed.
    """
    row, active = state.row, device.active(state.device)
    channel = rows(setup.system.link.observe)(row.link)

    planned = rows(partial(plan, setup=believed or setup, max_draft_length=max_draft_length))(row, channel)
    drafted, uplink = device.draft(state.device, row, planned, channel)
    edge_state, downlink = edge.verify(state.edge, uplink)
    device_state, committed = device.commit(state.device, row, drafted, downlink, lambda: edge.row(edge_state))
    seen = rows(partial(observe, setup=setup))(row, planned, channel, drafted.effort, committed, active)
    row, seen = rows(partial(update, setup=setup))(row, seen, drafted.effort, committed)

    return DecodeState(device=device_state, edge=edge_state, row=row), seen
