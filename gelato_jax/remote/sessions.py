"""The edge's sessions: text and cache of each request, and its last answer, so that a repeated call repeats the answer.

Rounds of several sessions that wait are verified in one pass (`turns`): a window of each, beside its own cache. No
network in sight: calls are records of `edge.proto`, faults are `Refused`.
"""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gelato_jax import keys
from gelato_jax.decoding import memory
from gelato_jax.decoding.job import buffer_slots
from gelato_jax.decoding.records import Shapes
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model
from gelato_jax.payloads import Downlink, Uplink
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.compute import Computer, Row, Terms
from gelato_jax.remote.turns import Turns
from gelato_jax.remote.wire import SESSION_BYTES, read_payload, read_sampling

IDLE_S = 600.0
"""After so many seconds without a call a session is forgotten; its device then opens it again by itself."""
CROWDED_S = 60.0
"""After so many already where another needs its place: a device that was killed must not hold it for longer."""
MOST_DRAFTS = 32
"""Of a round, at most."""


class Refused(Exception):
    """A call that cannot be served; the state has not moved.

    Attributes:
        kind: `invalid` (mend the call), `unknown` (no such session), `full` (come back later), `mismatch` (of another
            tokenizer) or `away` (nobody answered: try again).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass(eq=False)
class _Session:
    """One request at the edge."""

    row: Row  # its text at the target
    opening: bytes  # the call that opened it
    used: float
    opened_at: int  # the round that was next then
    owner: str  # who alone may go on with it
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # held by a call that moves it
    opened: pb.OpenReply | None = None  # None: its text has not been read yet
    round: int = 1  # that comes next; one of several passes moves it by as many
    answered: int = -1  # the round before
    answers: "dict[int, _Answer]" = dataclasses.field(default_factory=dict)  # by round, those that may be asked for


class _Answer(NamedTuple):
    """What was said to a round."""

    reply: pb.VerifyReply
    passes: int
    left: int  # tokens that it asked for and that are still to come


@dataclasses.dataclass
class Tally:
    """What was done so far.

    Attributes:
        rounds: answered.
        batches: passes over windows of several sessions that answered them.
        drafted: tokens that came in them.
        accepted: of those.
        accepted_at: of those, by their place in the round.
        tokens: verified or streamed.
        prompt_tokens: of texts that were read.
        edge_s: from calls of rounds to their answers.
        refused: calls, by kind.
    """

    rounds: int = 0
    batches: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = dataclasses.field(default_factory=lambda: [0] * MOST_DRAFTS)
    tokens: int = 0
    prompt_tokens: int = 0
    edge_s: float = 0.0
    refused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def answered(self, drafted: int, accepted: int, tokens: int) -> None:
        """Count a round."""
        self.rounds, self.tokens = self.rounds + 1, self.tokens + tokens
        self.drafted, self.accepted = self.drafted + drafted, self.accepted + accepted
        for place in range(accepted):
            self.accepted_at[place] += 1


class _Opening(NamedTuple):
    """A text that is to be read."""

    session: _Session
    call: pb.OpenRequest


class _Asked(NamedTuple):
    """A round that is to be answered, in one pass or, of a stream, in several."""

    session: _Session
    uplink: Uplink
    said: list[int]  # of the stream, so far

    @property
    def size(self) -> int:
        """Tokens of the answer to a round without drafts: up to G + 1."""
        return min(int(self.uplink.wanted[0]), self.session.row.terms.shapes.max_draft_length + 1)

    @property
    def rest(self) -> Uplink:
        """What the next pass is asked for."""
        return _going_on(self.uplink, self.size - len(self.said)) if self.said else self.uplink


class Sessions:
    """All sessions of one target. Calls may come from any thread; one at a time computes, for several that wait.

    Args:
        target: the model.
        vocabulary: fingerprint of its tokenizer.
        eos_ids: ids behind which a stream of tokens need not go on.
        most: sessions at once; each holds a cache.
        most_each: of them of one owner; as many if not given.
        shares: of owners, in the target's time where it is short; 1 of those that are not named.
        clock: seconds.

    Attributes:
        tally: what was done so far.
    """

    def __init__(
        self,
        target: Model,
        vocabulary: str,
        *,
        eos_ids: Sequence[int] = (),
        most: int = 16,
        most_each: int | None = None,
        shares: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without any session."""
        self.target, self.vocabulary, self.most = target, vocabulary, most
        self.tally = Tally()
        self._most_each = most if most_each is None else most_each
        self._computer, self._eos_ids = Computer(target, eos_ids), frozenset(eos_ids)
        self._clock, self._lock = clock, threading.Lock()
        self._sessions: dict[bytes, _Session] = {}
        self._turns = Turns(self._compute, self._room, shares)

    def __len__(self) -> int:
        """Sessions that are held."""
        return len(self._sessions)

    @property
    def waiting(self) -> int:
        """Rounds and texts that wait for a pass."""
        return len(self._turns)

    def open(self, call: pb.OpenRequest, owner: str = "") -> pb.OpenReply:
        """Read a prompt, or a text whose session was lost. For others than its owner, there is no such session.

        Raises:
            Refused: see there.
        """
        if call.vocabulary != self.vocabulary:
            raise Refused(
                "mismatch",
                f"the device's tokenizer is {call.vocabulary[:12]}, this edge's {self.vocabulary[:12]}: "
                "take a draft of the same family",
            )
        terms, opening = self._describe(call), call.SerializeToString(deterministic=True)
        needed = memory.model_cache_bytes(self.target, 1, terms.slots)
        with self._lock:
            session = self._sessions.get(call.session)
            if session is not None and session.owner != owner:
                raise Refused("invalid", "this session's name is taken: draw another")
            if session is not None and call.round < session.opened_at:
                raise Refused("invalid", f"this session was opened again at round {session.opened_at}")  # a late copy
            if session is None or session.opening != opening:
                self._make_room(call.session, owner)
                if memory.too_little_for(needed) is not None:  # else the system would end the edge, for all
                    text = f"a text of {terms.slots:,} tokens"
                    raise Refused("full", f"this edge has no memory left for {text}; try again later")
                session = self._sessions[call.session] = _Session(Row(terms), opening, self._clock(), call.round, owner)
        with session.lock, self._dropped_if_it_fails(call.session, session):
            while session.opened is None:  # else the reply was lost
                self._turns.take(object(), _Opening(session, call), owner)
            return session.opened

    def verify(self, call: pb.VerifyRequest, owner: str = "") -> pb.VerifyReply:
        """Answer a round: its drafts, or the first of the tokens that it asks for.

        Raises:
            Refused: see there.
        """
        return self._verify(call, call.round, None, owner).reply

    def stream(self, call: pb.VerifyRequest, owner: str = "") -> Iterator[pb.VerifyReply]:
        """Answer a round, and those behind it that nobody has to ask for, until its tokens are there.

        Others have their turns between. A device that lost an answer asks again from there.

        Raises:
            Refused: see there.
        """
        number, left = call.round, None
        while left != 0:
            answer = self._verify(call, number, left, owner)
            yield answer.reply
            number, left = number + answer.passes, answer.left

    def _verify(self, call: pb.VerifyRequest, number: int, left: int | None, owner: str) -> _Answer:
        """Answer round `number` of a call; behind its first, `left` of its tokens are still to come."""
        came = self._clock()
        with self._held(call.session, owner) as session:
            for old in [old for old in session.answers if old < call.round]:
                del session.answers[old]  # the device has them
            if number in session.answers:
                return session.answers[number]  # the reply was lost
            if number != session.round:
                raise Refused("invalid", f"round {number} does not follow; the next is {session.round}")
            uplink = self._decode(call.uplink, session.row.terms)
            if left is not None:
                uplink = _going_on(uplink, left)
            with self._dropped_if_it_fails(call.session, session):
                asked = _Asked(session, uplink, [])
                while number not in session.answers:
                    self._turns.take(session.row.alike, asked, owner)
            answer = session.answers[number]
            answer.reply.edge_s = self._clock() - came
            self.tally.edge_s += answer.reply.edge_s
            return answer

    def row(self, call: pb.RowRequest, owner: str = "") -> pb.RowReply:
        """The target's row after the last round's accepted drafts.

        Raises:
            Refused: see there.
        """
        with self._held(call.session, owner) as session:
            payload, state = session.row.terms.payload, session.row.state
            if not payload.keeps_row or call.round != session.answered or state is None:
                raise Refused("invalid", f"there is no row of round {call.round}")
            return pb.RowReply(row=payload.encode_row(np.asarray(state.row)[0]))  # type: ignore[attr-defined]

    def close(self, call: pb.CloseRequest, owner: str = "") -> pb.CloseReply:
        """Forget a session, known or not."""
        with self._lock:
            session = self._sessions.get(call.session)
            if session is not None and session.owner == owner:
                del self._sessions[call.session]
        return pb.CloseReply()

    @contextlib.contextmanager
    def _held(self, name: bytes, owner: str) -> Iterator[_Session]:
        """A session, for one call at a time: a repeat waits for the answer, and has the same."""
        session = self._find(name, owner)
        with session.lock:
            if self._find(name, owner) is not session:  # lost, or opened again, while this call waited
                raise Refused("away", "the session has been opened again")
            yield session

    def _find(self, name: bytes, owner: str) -> _Session:
        with self._lock:
            session = self._sessions.get(name)
            if session is None or session.owner != owner:
                raise Refused("unknown", "there is no such session")
            session.used = self._clock()
            return session

    @contextlib.contextmanager
    def _dropped_if_it_fails(self, name: bytes, session: _Session) -> Iterator[None]:
        """A session whose state was given away in vain is forgotten; its device opens it again."""
        try:
            yield
        except BaseException:
            with self._lock:
                if self._sessions.get(name) is session:
                    del self._sessions[name]
            raise

    def _make_room(self, name: bytes, owner: str) -> None:
        """Forget the session that is opened again, and those that nobody uses; refuse where that is not enough.

        Of the unused, one is forgotten for each that comes, the longest unused first; of a guest's own, if it has all.
        """
        self._sessions.pop(name, None)
        now = self._clock()
        for other, session in sorted(self._sessions.items(), key=lambda entry: entry[1].used):
            own = [one for one in self._sessions.values() if one.owner == owner]
            crowded = len(self._sessions) >= self.most or (session.owner == owner and len(own) >= self._most_each)
            unused_s = 0.0 if session.lock.locked() else now - session.used  # a call may take long: a program is made
            if unused_s > (CROWDED_S if crowded else IDLE_S):
                del self._sessions[other]
        if len(self._sessions) >= self.most:
            raise Refused("full", f"this edge serves {self.most} sessions already; try again later")
        if sum(session.owner == owner for session in self._sessions.values()) >= self._most_each:
            raise Refused("full", f"you have {self._most_each} sessions at this edge already; end one")

    def _describe(self, call: pb.OpenRequest) -> Terms:
        """What a call asks for, checked."""
        config = self.target.config
        tokens = np.asarray(call.tokens, np.int64)
        if len(call.session) != SESSION_BYTES:
            raise Refused("invalid", f"a session's name has {SESSION_BYTES} bytes, this one {len(call.session)}")
        if not 1 <= call.prompt_length <= tokens.size or (call.round == 0) != (call.prompt_length == tokens.size):
            raise Refused(
                "invalid", f"{tokens.size} ids, {call.prompt_length} of them the prompt's, round {call.round}"
            )
        if tokens.max() >= config.valid_outputs:
            raise Refused("invalid", f"id {tokens.max()} is none of the target's 0..{config.valid_outputs - 1}")
        if call.max_new_tokens < 1 or call.prompt_length + call.max_new_tokens > config.max_positions:
            raise Refused(
                "invalid",
                f"prompt and answer have {call.prompt_length} and up to {call.max_new_tokens} tokens, "
                f"the target {config.max_positions} positions: shorten them",
            )
        if tokens.size > call.prompt_length + call.max_new_tokens:
            raise Refused("invalid", f"{tokens.size} ids are more than the request allows")
        if call.max_draft_length > MOST_DRAFTS:
            raise Refused("invalid", f"max_draft_length is {call.max_draft_length}, must be at most {MOST_DRAFTS}")
        try:
            sampling = read_sampling(call.sampling)
            payload, ids = read_payload(call.payload, config.valid_outputs)
        except GelatoError as error:
            raise Refused("invalid", str(error)) from None
        shapes = Shapes(max_draft_length=call.max_draft_length)
        return Terms(
            sampling=jax.tree.map(lambda number: number[None], sampling),
            payload=payload,
            ids=ids,
            shapes=shapes,
            slots=buffer_slots(call.prompt_length + call.max_new_tokens, shapes),
            row_keys=keys.row_keys(jnp.asarray([[call.sampling.seed, 0]], jnp.uint32)),
        )

    def _decode(self, data: bytes, terms: Terms) -> Uplink:
        """A round's message, checked against its session's terms."""
        try:
            uplink = terms.payload.decode_uplink(data, terms.shapes.max_draft_length, terms.ids)
        except ValueError as error:
            raise Refused("invalid", f"the uplink is no {terms.payload.scheme} message: {error}") from None
        named = np.concatenate(
            [np.asarray(part).ravel() for part in (uplink.tokens, uplink.pending, uplink.repeated) if part is not None]
        )
        if named.max(initial=0) >= self.target.config.valid_outputs:
            raise Refused("invalid", f"the uplink names id {named.max()}, which the target does not have")
        return uplink

    def _room(self, works: Sequence[_Opening | _Asked]) -> int:
        return self._computer.room(works[0].session.row, len(works)) if isinstance(works[0], _Asked) else 1

    def _compute(self, works: Sequence[_Opening | _Asked]) -> None:
        if isinstance(works[0], _Opening):
            self._read(*works[0])
        else:
            self._answer(works)  # type: ignore[arg-type]

    def _read(self, session: _Session, call: pb.OpenRequest) -> None:
        """Read a piece of a call's tokens; with the last one, the session is open."""
        said = self._computer.read(session.row, np.asarray(call.tokens, np.int32), call.round)
        if said is not None:
            session.opened = pb.OpenReply(first_token=said[0], fault=said[1])
            session.round = max(call.round, 1)
            self.tally.prompt_tokens += len(call.tokens)

    def _answer(self, works: Sequence[_Asked]) -> None:
        """One pass for rounds of several sessions, or some where all of them stream."""
        downlink = self._computer.answer([work.session.row for work in works], [work.rest for work in works])
        for row, work in enumerate(works):
            session, said = work.session, work.said
            terms, drafted = session.row.terms, int(work.uplink.length[0])
            count, last = int(downlink.num_streamed[row]), int(downlink.next_token[row])
            said += [*downlink.streamed[row, :count].tolist(), last]
            over = drafted > 0 or bool(downlink.fault[row]) or last in self._eos_ids
            if not over and len(said) < work.size:
                continue
            whole = _with_stream(downlink, row, said[:-1])
            data = terms.payload.encode_downlink(whole, 0, drafted, terms.ids)
            left = 0 if over else int(work.uplink.wanted[0]) - len(said)
            session.answers[session.round] = _Answer(pb.VerifyReply(downlink=data), len(said), left)
            session.answered = session.round
            session.round += len(said)
            accepted = int(downlink.accepted[row]) if drafted else 0
            self.tally.answered(drafted, accepted, accepted + len(said))
        self.tally.batches += 1


def _with_stream(downlink: Downlink, row: int, said: list[int]) -> Downlink:
    """One row of an answer, with all the tokens of a stream ahead of its last."""
    one = jax.tree.map(lambda leaf: np.array(leaf[row : row + 1]), downlink)
    one.streamed[0, : len(said)] = said
    one.num_streamed[0] = len(said)
    return one


def _going_on(uplink: Uplink, left: int) -> Uplink:
    """The message that a device would send for the rest of a stream."""
    pending = None if uplink.pending is None else np.full(1, -1, np.int32)
    return dataclasses.replace(uplink, wanted=np.asarray([left], np.int32), pending=pending)  # type: ignore[arg-type]
