"""Device and edge as this process runs them: the two ends of `round.run_round`, over models at hand."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from gelato_jax.decoding.commit import commit
from gelato_jax.decoding.draft import draft
from gelato_jax.decoding.lookup import outlook
from gelato_jax.decoding.records import (
    Committed,
    DecodeState,
    DeviceState,
    Drafted,
    EdgeState,
    Job,
    Lookup,
    RowState,
    Sampling,
    Shapes,
)
from gelato_jax.decoding.round import run_round
from gelato_jax.decoding.verify import verify
from gelato_jax.models import Model
from gelato_jax.payloads import Downlink, DraftIds, Payload, Uplink
from gelato_jax.system import Channel
from gelato_jax.types import Observation, RoundPlan


class Device(NamedTuple):
    """Drafts with the job's draft model; of the target it uses the number of ids alone."""

    job: Job
    shapes: Shapes

    def outlook(self, state: DeviceState) -> Array | None:
        """See `round.Drafter`."""
        return outlook(state, self.job, self.shapes) if isinstance(self.job.draft, Lookup) else None

    def draft(self, state: DeviceState, row: RowState, plan: RoundPlan, channel: Channel) -> tuple[Drafted, Uplink]:
        """See `round.Drafter`."""
        return draft(state, row, plan, channel, self.job, self.shapes)

    def commit(
        self, state: DeviceState, row: RowState, drafted: Drafted, downlink: Downlink, ask: Callable[[], Array]
    ) -> tuple[DeviceState, Committed]:
        """See `round.Drafter`."""
        return commit(state, row, drafted, downlink, ask, self.job)

    def active(self, state: DeviceState) -> Array:
        """See `round.Drafter`."""
        return ~state.done


class Edge(NamedTuple):
    """Verifies with a target model."""

    target: Model
    sampling: Sampling
    payload: Payload
    ids: DraftIds
    eos_ids: Array
    shapes: Shapes

    def verify(self, state: EdgeState, uplink: Uplink) -> tuple[EdgeState, Downlink]:
        """See `round.Verifier`."""
        return verify(state, uplink, **self._asdict())

    def row(self, state: EdgeState) -> Array:
        """See `round.Verifier`."""
        assert state.row is not None
        return state.row


def ends(job: Job, shapes: Shapes) -> tuple[Device, Edge]:
    """The two ends of a job in one process."""
    edge = Edge(job.target, job.sampling, job.policy.payload, job.draft_ids, job.eos_ids, shapes)
    return Device(job, shapes), edge


def decode_round(state: DecodeState, job: Job, shapes: Shapes) -> tuple[DecodeState, Observation]:
    """A round of a job in this process, leaves `[B]`."""
    return run_round(state, *ends(job, shapes), job.setup, shapes.max_draft_length)
