"""Step 1 of a round: what it would cost at every draft length, and what the controller makes of it.

Scalars of one row, with no model in sight: a decode maps it over its rows, a simulation over its devices.
"""

from jax import Array

from gelato_jax.decoding.records import RowState, Terms
from gelato_jax.system import Channel
from gelato_jax.types import RoundPlan


def plan(row: RowState, channel: Channel, *, terms: Terms, max_draft_length: int) -> RoundPlan:
    """The row's expected costs and its controller's decision.

    Args:
        row: before the round.
        channel: the link this round.
        terms: rules and world, as the device believes them to be.
        max_draft_length: G.
    """
    session, controller = row.session, terms.policy.controller
    cost_table = terms.system.cost_table(
        channel,
        terms.policy.payload,
        terms.vocabularies,
        work=session.averages.work,
        acceptance=controller.forecast(session.controller, max_draft_length),
        support=session.averages.support,
        pending=row.pending,
        lag=row.lag,
        unread=row.unread,
        remaining=row.remaining,
    )
    return controller.plan(session.controller, cost_table)


def drafts_at_once(row: RowState, channel: Channel, *, terms: Terms, max_draft_length: int) -> Array:
    """[] bool whether the first round would draft: only then is the prompt worth reading beforehand."""
    return plan(row, channel, terms=terms, max_draft_length=max_draft_length).draft_budget > 0
