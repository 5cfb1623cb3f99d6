"""The records of a decode: what is asked for, what is carried from round to round, what is reported."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from gelato_jax.control import Controller, ControllerState, DepthExit, DraftSampling, LengthExit
from gelato_jax.models import Cache, Model
from gelato_jax.system import LinkState, Payload, System
from gelato_jax.types import Calibration, Calibrations, Compensated, RepeatLaws, RoundCost, number, record, static


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """The sizes that a compiled decode depends on; everything else about a decode is an array.

    Attributes:
        max_draft_length: G, most tokens drafted in a round.
        prefill_chunk: tokens of a prompt run at a time.
    """

    max_draft_length: int = 4
    prefill_chunk: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that no program can have."""
        if not 0 <= self.max_draft_length <= 32:
            raise ValueError(f"max_draft_length is {self.max_draft_length}, must lie in 0..32")
        if self.prefill_chunk < 1:
            raise ValueError(f"prefill_chunk is {self.prefill_chunk}, must be at least 1")

    @property
    def windows(self) -> tuple[int, ...]:
        """Verification windows that get a branch of their own: 1, 5, 9, 17, then G + 1.

        A round pads its drafts to the next one. Each branch costs a forward pass of compile and load
        time, and on a CPU a window of 3 takes as long as one of 5.
        """
        widest = self.max_draft_length + 1
        return (*(size for size in (1, 5, 9, 17) if size < widest), widest)


@record
class Sampling:
    """How a distribution is shaped from logits: temperature, then top-k, then top-p."""

    temperature: Array  # [] 0 is greedy
    top_k: Array  # [] int32, 0 keeps all
    top_p: Array  # [] 1 keeps all

    @classmethod
    def create(cls, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0) -> "Sampling":
        """Check the numbers and make them arrays.

        Raises:
            ValueError: a number is out of its range.
        """
        return cls(
            temperature=number("temperature", temperature, low=0.0),
            top_k=number("top_k", top_k, low=0, dtype=jnp.int32),
            top_p=number("top_p", top_p, low=1e-6, high=1.0),
        )


@record
class DraftModel:
    """A draft: its decoder, the ids its head stands for, what its entropy says, what an exit costs.

    Its law q is its head's, with the odds of repeated tokens changed where it has `repeats`. One more
    column of q then stands for a repeated token that the head lacks.
    """

    model: Model
    vocabulary: Array | None  # [U] int32 target ids of the head's rows, ascending; None: all of them
    calibration: Calibrations
    work: Array  # [X] weights read up to an exit, as a share of the deepest
    repeats: RepeatLaws | None = None

    @property
    def num_outputs(self) -> int:
        """Columns of q: U, or one more."""
        extra = self.repeats is not None and self.vocabulary is not None
        return self.model.config.valid_outputs + extra


@record
class Policy:
    """All that decides how much is drafted, and how it is sent."""

    controller: Controller
    length_exit: LengthExit
    depth_exit: DepthExit
    draft_sampling: DraftSampling
    payload: Payload


@record
class Terms:
    """What the books of a round follow from: rules, world, and sizes. A job without its models."""

    policy: Policy
    system: System
    calibration: Calibration
    work: Array  # [X] weights read up to an exit, as a share of the deepest
    vocab_size: int = static()  # target ids
    draft_vocab_size: int = static()  # columns of q


@record
class Job:
    """What one decode runs: models, policy, physical world and law. Numbers in it are traced."""

    target: Model
    draft: DraftModel
    policy: Policy
    system: System
    sampling: Sampling
    eos_ids: Array  # [E] int32, any of them ends a row

    @property
    def calibration(self) -> Calibration:
        """What the draft's entropy says under this job's law. Chosen as data: any temperature, one program."""
        return self.draft.calibration.at(self.sampling.temperature)

    @property
    def terms(self) -> Terms:
        """What the books of its rounds follow from."""
        return Terms(
            policy=self.policy,
            system=self.system,
            calibration=self.calibration,
            work=self.draft.work,
            vocab_size=self.target.config.valid_outputs,
            draft_vocab_size=self.draft.num_outputs,
        )


@record
class Draft:
    """What the device drafted in a round."""

    tokens: Array  # [B, G] int32 target ids; beyond `length` meaningless
    length: Array  # [B] int32
    log_prob: Array  # [B, G] log q of each token, in the q it was drawn from
    log_weights: Array  # [B, G, Q] that q, unnormalised logs; Q = `DraftModel.num_outputs`
    repeated: Array  # [B, G] int32 target id that q's further column stands for, where it has one
    entropy: Array  # [B, G] nats of the draft's own softmax, 0 beyond `length`
    max_probability: Array  # [B, G] of the same softmax; beyond `length` meaningless
    exit: Array  # [B, G] int32 exit taken
    work: Array  # [B] work summed over the drafted tokens
    support: Array  # [B] support sizes of q summed over the drafted tokens
    caught_up: Array  # [B] int32 committed tokens fed to the draft's cache first


@record
class Totals:
    """Sums over the rounds of one row."""

    rounds: Array  # [] int32
    drafted: Array  # [] int32
    accepted: Array  # [] int32
    tokens: Array  # [] int32 emitted by rounds; the prefill's first token is not among them
    caught_up: Array  # [] int32
    exits: Array  # [X] int32 drafted tokens by exit
    work: Compensated  # of the drafted tokens
    support: Compensated  # of the drafted tokens
    time_s: Compensated  # of the rounds, as the controller counts them
    energy_j: Compensated
    uplink_bits: Compensated
    downlink_bits: Compensated
    queue_j: Compensated  # summed over rounds
    prefill_s: Array  # []
    prefill_j: Array  # []

    @classmethod
    def zero(cls, exits: int, prefill: RoundCost) -> "Totals":
        """No rounds yet, after a prefill."""
        count, empty = jnp.zeros((), jnp.int32), Compensated.zero()
        return cls(
            rounds=count,
            drafted=count,
            accepted=count,
            tokens=count,
            caught_up=count,
            exits=jnp.zeros((exits,), jnp.int32),
            work=empty,
            support=empty,
            time_s=empty,
            energy_j=empty,
            uplink_bits=empty,
            downlink_bits=empty,
            queue_j=empty,
            prefill_s=prefill.time_s,
            prefill_j=prefill.energy_j,
        )


@record
class Memory:
    """What rows keep from one request to the next: queue, estimates, adapted thresholds; leaves `[B]`.

    Answers are short, some tens of rounds: a queue that starts anew with each of them would let
    every request overspend by its start-up.
    """

    controller: ControllerState
    length_exit: Any


@record
class Account:
    """The books of a row: what rounds leave behind beside text and caches."""

    round: Array  # [] int32 the row's own round counter
    pending_id: Array  # [] int32 1 where the edge has not seen the last token (drawn on the device)
    link: LinkState
    memory: Memory
    totals: Totals


@record
class DecodeState:
    """What a decode carries from round to round; every leaf but the caches' layers has rows first.

    The last committed token of a row is in neither cache: it is the next window's first token, so
    the target's cache holds `length - 1` slots and the draft's `draft_length <= length - 1`.
    """

    tokens: Array  # [B, S] int32 prompt and text
    length: Array  # [B] int32 committed tokens
    limit: Array  # [B] int32 length at which a row ends
    done: Array  # [B] bool
    draft_length: Array  # [B] int32 valid slots of the draft's cache
    target_cache: Cache
    draft_cache: Cache
    key: Array  # [B] random key of the row
    account: Account


@record
class RoundInfo:
    """What a round reports and nobody carries."""

    tokens: Array  # [B, G + 1] int32 emitted
    count: Array  # [B] int32 how many of them
    drafted: Array  # [B] int32
    accepted: Array  # [B] int32
    budget: Array  # [B] int32 what the controller allowed
    mean_exit: Array  # [B] float32 mean exit index of the drafted tokens
    acceptance_rate: Array  # [B] the controller's estimate
    queue_j: Array  # [B] after the round
    time_s: Array  # [B] modelled
    energy_j: Array  # [B] modelled
    done: Array  # [B] bool after the round
