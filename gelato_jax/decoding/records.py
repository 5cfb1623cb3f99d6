"""The records of a decode: what is asked for, what is carried from round to round, what is reported."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from gelato_jax.control import Controller, ControllerState, DepthExit, DraftSampling, LengthExit
from gelato_jax.decoding.totals import Averages, Totals
from gelato_jax.errors import GelatoError
from gelato_jax.models import Cache, Model
from gelato_jax.payloads import DraftIds, Payload, Proposal, Vocabularies
from gelato_jax.system import LinkState, System
from gelato_jax.types import Calibration, Calibrations, RepeatOddsSet, number, record, static


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
            raise GelatoError(f"max_draft_length is {self.max_draft_length}, must lie in 0..32")
        if self.prefill_chunk < 1:
            raise GelatoError(f"prefill_chunk is {self.prefill_chunk}, must be at least 1")

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
    """How a distribution is shaped from logits: temperature, then top-k, then top-p; at an edge, each row's own."""

    temperature: Array  # [] or [B], 0 is greedy
    top_k: Array  # int32 likewise, 0 keeps all
    top_p: Array  # likewise, 1 keeps all

    @classmethod
    def create(cls, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0) -> "Sampling":
        """Check the numbers and make them arrays.

        Raises:
            GelatoError: a number is out of its range.
        """
        return cls(
            temperature=number("temperature", temperature, low=0.0),
            top_k=number("top_k", top_k, low=0, dtype=jnp.int32),
            top_p=number("top_p", top_p, low=1e-6, high=1.0),
        )


@record
class DraftModel:
    """A draft: its decoder, the ids its head stands for, what its entropy says, what an exit costs.

    Its distribution q is its head's, with the odds of repeated tokens changed where it has `repeats`. One more
    column of q then stands for a repeated token that the head lacks.
    """

    model: Model
    vocabulary: Array | None  # [U] int32 target ids of the head's rows, ascending; None: all of them
    calibration: Calibrations
    work: Array  # [X] weights read up to an exit, as a share of the deepest
    repeats: RepeatOddsSet | None = None

    @property
    def further(self) -> bool:
        """Whether q has a column for a repeated token that the head lacks."""
        return self.repeats is not None and self.vocabulary is not None

    @property
    def num_outputs(self) -> int:
        """Columns of q: U, or one more."""
        return self.model.config.valid_outputs + self.further

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers up to each exit, `[X]`."""
        return self.model.config.exits


@record
class Lookup:
    """A draft without weights: what followed the text's last tokens when they were there before (prompt lookup).

    Its q has one column, for the token found. It has no cache, costs nothing, and knows before a round how far to
    believe each of its drafts: by how many tokens repeat.
    """

    calibration: Calibrations  # a class for each number of repeated tokens, the most first
    shortest: Array  # [] int32 tokens that must repeat

    further: ClassVar[bool] = True
    num_outputs: ClassVar[int] = 1
    depths: ClassVar[tuple[int, ...]] = (0,)

    @property
    def vocabulary(self) -> Array:
        """`[0]` int32: q's one column is the further one."""
        return jnp.zeros((0,), jnp.int32)

    @property
    def work(self) -> Array:
        """`[1]` nothing is read."""
        return jnp.zeros((1,), jnp.float32)

    def chances(self, temperature: Array) -> Array:
        """`[M]` chance that the token behind 1..M repeated ones is the target's, at a temperature; 0 is greedy."""
        return self.calibration.at(temperature).class_acceptance[0, ::-1]


def with_weights(draft: DraftModel | Lookup) -> DraftModel:
    """The draft, where it is a model.

    Raises:
        GelatoError: it has no weights.
    """
    if isinstance(draft, Lookup):
        raise GelatoError("draft lookup has no weights: take one that has, such as the one that ships or layers:K")
    return draft


@record
class Policy:
    """All that decides how much is drafted, and how it is sent."""

    controller: Controller
    length_exit: LengthExit
    depth_exit: DepthExit
    draft_sampling: DraftSampling
    payload: Payload
    stream_length: Array | int = 1  # [] int32 tokens that a message without drafts asks for


@record
class Setup:
    """Rules and world, as they are or as a device believes them to be: a job without its models.

    All that a round plans and costs follows from it.
    """

    policy: Policy
    system: System
    calibration: Calibration
    work: Array  # [X] weights read up to an exit, as a share of the deepest
    vocabularies: Vocabularies = static()  # that messages are counted by
    reads: bool = static(default=True)  # the draft has a cache, which is fed the text before it drafts


@record
class Job:
    """What one decode runs: models, policy, physical world and sampling. Numbers in it are traced."""

    target: Model
    draft: DraftModel | Lookup
    policy: Policy
    system: System
    sampling: Sampling
    eos_ids: Array  # [E] int32, any of them ends a row

    @property
    def calibration(self) -> Calibration:
        """What the draft's entropy says under this job's sampling. Chosen as data: any temperature, one program."""
        return self.draft.calibration.at(self.sampling.temperature)

    @property
    def draft_ids(self) -> DraftIds:
        """What the columns of q stand for."""
        return DraftIds(
            known=self.draft.vocabulary,
            vocab_size=self.target.config.valid_outputs,
            further=self.draft.further,
        )

    @property
    def setup(self) -> Setup:
        """Its rules and world."""
        return Setup(
            policy=self.policy,
            system=self.system,
            calibration=self.calibration,
            work=self.draft.work,
            vocabularies=self.draft_ids.sizes,
            reads=isinstance(self.draft, DraftModel),
        )


@record
class Session:
    """What a row keeps from one request to the next: queue, estimates, adapted thresholds, averages; leaves `[B]`.

    Answers are short, some tens of rounds: a queue that starts anew with each of them would let
    every request overspend by its start-up.
    """

    controller: ControllerState
    length_exit: Any
    averages: Averages


@record
class RowState:
    """What a row carries from round to round beside text and caches, at the device."""

    round: Array  # [] int32 the row's own counter of target passes: one a round, or one for each streamed token
    pending: Array  # [] int32 1 where the edge has not seen the last token (drawn on the device)
    lag: Array  # [] int32 committed tokens that the draft has not seen, but for the last
    unread: Array  # [] bool the prompt is among them: nothing of this request has been drafted
    remaining: Array  # [] int32 tokens that the request may still bring
    coming: Array  # [] int32 of them that the edge was asked for already: a stream that goes on by itself
    link: LinkState
    session: Session
    totals: Totals


@record
class DeviceState:
    """The device's side of a batch of rows.

    The last committed token of a row is not in the cache: `cache_length <= length - 1`.
    """

    tokens: Array  # [B, S] int32 prompt and text
    length: Array  # [B] int32 committed tokens
    limit: Array  # [B] int32 length at which a row ends
    done: Array  # [B] bool
    fault: Array  # [B] bool a model's logits were no numbers: the row ended there
    pending: Array  # [B] int32 the last token where the device drew it itself, else -1
    cache: Cache  # the draft's
    cache_length: Array  # [B] int32 its valid slots
    key: Array  # [B, 2] random key of the row, see `keys`


@record
class Draft:
    """What the device drafted in a round, and what it cost."""

    proposal: Proposal
    entropy: Array  # [B, G] nats of the draft's own softmax, 0 beyond the length
    max_probability: Array  # [B, G] of the same softmax; beyond the length meaningless
    exit: Array  # [B, G] int32 exit taken
    work: Array  # [B] work summed over the drafted tokens
    support: Array  # [B] support sizes of q summed over the drafted tokens
    fault: Array  # [B] bool the draft's logits were no numbers
    caught_up: Array  # [B] int32 committed tokens before the last that the draft's cache was fed
    cache: Cache
    cache_length: Array  # [B] int32 valid slots

    @classmethod
    def nothing(cls, model: DraftModel | Lookup, size: int, cache: Cache, cache_length: Array) -> "Draft":
        """No token yet of `size` at most; the cache as it is."""
        rows = cache_length.shape[0]
        numbers, zeros = jnp.zeros((rows, size), jnp.float32), jnp.zeros((rows,), jnp.float32)
        return cls(
            proposal=Proposal(
                tokens=jnp.zeros((rows, size), jnp.int32),
                length=jnp.zeros((rows,), jnp.int32),
                log_prob=numbers,
                log_weights=jnp.zeros((rows, size, model.num_outputs), jnp.float32),
                repeated=jnp.zeros((rows, size), jnp.int32),
            ),
            entropy=numbers,
            max_probability=numbers,
            exit=jnp.zeros((rows, size), jnp.int32),
            work=zeros,
            support=zeros,
            fault=jnp.zeros((rows,), bool),
            caught_up=jnp.zeros_like(cache_length),
            cache=cache,
            cache_length=cache_length,
        )


@record
class EdgeState:
    """The edge's side of the same rows. It needs no more of the text than its last token: the cache holds the rest."""

    last: Array  # [B] int32 last token that the edge knows of; meaningless where the device drew one since
    length: Array  # [B] int32 committed tokens; the cache holds one less
    cache: Cache  # the target's
    key: Array  # [B, 2] random key of the row, as the device has it
    round: Array  # [B] int32 the row's counter of passes, as the device has it
    row: Array | None  # [B, V] the target's row at the last rejection, where a device may ask for it


@record
class DecodeState:
    """What a decode carries from round to round; every leaf has rows first.

    Its ends are `DeviceState` and `EdgeState`, or what another drafter and verifier carry.
    """

    device: Any
    edge: Any
    row: RowState


@record
class Effort:
    """What drafting a round of one row took."""

    length: Array  # [] int32 tokens drafted
    work: Array  # [] work summed over them
    support: Array  # [] support sizes of q summed over them
    exits: Array  # [X] int32 of them by exit
    caught_up: Array  # [] int32 committed tokens fed to the draft's cache first
    length_exit: Any  # the length exit's state after them


@record
class Drafted:
    """A drafter's round between draft and commit."""

    effort: Effort  # leaves [B]
    own: Any  # what the drafter needs again when it commits


@record
class Committed:
    """What a round added to the text of one row."""

    accepted: Array  # [] int32 drafts that entered the text
    tokens: Array  # [] int32 tokens that did: 0 for a finished row
    passes: Array  # [] int32 windows that the target scored for them
    rejected: Array  # [] bool a draft was refused, and the token after the accepted ones entered the text
    asked: Array  # [] bool the device asked for the target's row
    predicted: Array  # [] acceptance by the calibration, summed over the drafts that were tested
    pending: Array  # [] int32 1 where the device drew the last token itself
    done: Array  # [] bool the row is finished
    fault: Array  # [] bool a model's logits were no numbers
    ids: Array | None  # [G+1] int32 the round's tokens; beyond `tokens` meaningless
