"""The edge's sessions: text and cache of each request, and its last answer, so that a repeated call repeats the answer.

No network in sight: calls are records of `edge.proto`, faults are `Refused`.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax import keys
from gelato_jax.decoding.job import buffer_slots
from gelato_jax.decoding.prefill import open_edge, reopen_edge
from gelato_jax.decoding.programs import in_background
from gelato_jax.decoding.records import EdgeState, Sampling, Shapes
from gelato_jax.decoding.verify import verify
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model
from gelato_jax.payloads import DraftIds, Payload, Uplink
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.wire import SESSION_BYTES, read_payload, read_sampling

IDLE_S = 600.0
"""After so many seconds without a call a session may be forgotten; its device then opens it again by itself."""
_MOST_DRAFTS = 32


class Refused(Exception):
    """A call that cannot be served; the state has not moved.

    Attributes:
        kind: `invalid` (mend the call), `unknown` (no such session), `full` (come back later), `mismatch` (of another
            tokenizer) or `away` (nobody answered: try again).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclasses.dataclass
class _Session:
    """One request at the edge."""

    sampling: Sampling
    payload: Payload
    ids: DraftIds
    shapes: Shapes
    state: EdgeState
    round: int  # that comes next; one of several passes moves it by as many
    opened: pb.OpenReply
    opening: tuple[int, bytes]  # of which call: its round, and its bytes
    ready: Future[None]  # the program of its rounds
    answered: int = -1  # the round before
    answer: bytes = b""  # to it
    used: float = 0.0


class Sessions:
    """All sessions of one target. Calls may come from any thread; one at a time computes.

    Args:
        target: the model.
        vocabulary: fingerprint of its tokenizer.
        eos_ids: ids behind which a stream of tokens need not go on.
        most: sessions at once; each holds a cache.
        clock: seconds.
    """

    def __init__(
        self,
        target: Model,
        vocabulary: str,
        *,
        eos_ids: Sequence[int] = (),
        most: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without any session."""
        self.target, self.vocabulary, self.most = target, vocabulary, most
        self._eos_ids = jnp.asarray(eos_ids, jnp.int32)
        self._clock, self._lock = clock, threading.Lock()
        self._sessions: dict[bytes, _Session] = {}
        self._programs: dict[Any, Future[None]] = {}

    def __len__(self) -> int:
        """Sessions that are held."""
        return len(self._sessions)

    def open(self, call: pb.OpenRequest) -> pb.OpenReply:
        """Read a prompt, or a text whose session was lost.

        Raises:
            Refused: see there.
        """
        if call.vocabulary != self.vocabulary:
            raise Refused(
                "mismatch",
                f"the device's tokenizer is {call.vocabulary[:12]}, this edge's {self.vocabulary[:12]}: "
                "take a draft of the same family",
            )
        session, row_keys = self._describe(call)
        opening = (call.round, call.SerializeToString(deterministic=True))
        with self._lock:
            known = self._sessions.get(call.session)
            if known is not None and known.opening == opening and known.round == max(call.round, 1):
                return known.opened  # the reply was lost
            self._make_room(call.session)
            made = self._read(call, session, row_keys)
            self._sessions[call.session] = dataclasses.replace(made, opening=opening, used=self._clock())
            return made.opened

    def verify(self, call: pb.VerifyRequest) -> pb.VerifyReply:
        """Answer a round.

        Raises:
            Refused: see there.
        """
        with self._lock:
            session = self._find(call.session)
            if call.round == session.answered:
                return pb.VerifyReply(downlink=session.answer)  # the reply was lost
            if call.round != session.round:
                raise Refused("invalid", f"round {call.round} does not follow; the next is {session.round}")
            uplink = self._decode(call.uplink, session)
            session.ready.result()
            del self._sessions[call.session]  # its state is given away; should this fail, the device opens it again
            session.state, downlink = _verify(
                session.state,
                uplink,
                target=self.target,
                sampling=session.sampling,
                payload=session.payload,
                ids=session.ids,
                eos_ids=self._eos_ids,
                shapes=session.shapes,
            )
            downlink = jax.device_get(downlink)
            length = int(uplink.length[0])
            session.answer = session.payload.encode_downlink(downlink, 0, length, session.ids)
            session.answered = call.round
            session.round += int(downlink.num_streamed[0]) + 1
            self._sessions[call.session] = session
            return pb.VerifyReply(downlink=session.answer)

    def row(self, call: pb.RowRequest) -> pb.RowReply:
        """The target's row after the last round's accepted drafts.

        Raises:
            Refused: see there.
        """
        with self._lock:
            session = self._find(call.session)
            if not session.payload.keeps_row or call.round != session.answered:
                raise Refused("invalid", f"there is no row of round {call.round}")
            return pb.RowReply(row=session.payload.encode_row(np.asarray(session.state.row)[0]))  # type: ignore[attr-defined]

    def close(self, call: pb.CloseRequest) -> pb.CloseReply:
        """Forget a session, known or not."""
        with self._lock:
            self._sessions.pop(call.session, None)
        return pb.CloseReply()

    def _find(self, name: bytes) -> _Session:
        session = self._sessions.get(name)
        if session is None:
            raise Refused("unknown", "there is no such session")
        session.used = self._clock()
        return session

    def _make_room(self, name: bytes) -> None:
        """Forget the session that is opened again, and those that nobody uses; refuse where that is not enough."""
        self._sessions.pop(name, None)
        now = self._clock()
        for other in [other for other, session in self._sessions.items() if now - session.used > IDLE_S]:
            del self._sessions[other]
        if len(self._sessions) >= self.most:
            raise Refused("full", f"this edge serves {self.most} sessions already; try again later")

    def _describe(self, call: pb.OpenRequest) -> tuple[tuple[Sampling, Payload, DraftIds, Shapes], Array]:
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
        if call.max_draft_length > _MOST_DRAFTS:
            raise Refused("invalid", f"max_draft_length is {call.max_draft_length}, must be at most {_MOST_DRAFTS}")
        try:
            sampling = read_sampling(call.sampling)
            payload, ids = read_payload(call.payload, config.valid_outputs)
        except GelatoError as error:
            raise Refused("invalid", str(error)) from None
        shapes = Shapes(max_draft_length=call.max_draft_length)
        row_keys = keys.row_keys(jnp.asarray([[call.sampling.seed, 0]], jnp.uint32))
        return (sampling, payload, ids, shapes), row_keys

    def _read(
        self, call: pb.OpenRequest, described: tuple[Sampling, Payload, DraftIds, Shapes], row_keys: Array
    ) -> _Session:
        """Read a call's tokens."""
        sampling, payload, ids, shapes = described
        slots = buffer_slots(call.prompt_length + call.max_new_tokens, shapes)
        tokens = np.zeros((1, slots), np.int32)
        tokens[0, : len(call.tokens)] = call.tokens
        length = jnp.asarray([len(call.tokens)], jnp.int32)
        if call.round == 0:
            state, first, fault = _open(self.target, sampling, payload, tokens, length, row_keys, shapes=shapes)
            reply = pb.OpenReply(first_token=int(first[0]), fault=bool(fault[0]))
        else:
            rounds = jnp.asarray([call.round], jnp.int32)
            state = _reopen(self.target, payload, tokens, length, row_keys, rounds, shapes=shapes)
            reply = pb.OpenReply()
        return _Session(
            sampling=sampling,
            payload=payload,
            ids=ids,
            shapes=shapes,
            state=state,
            round=max(call.round, 1),
            opened=reply,
            opening=(0, b""),
            ready=self._prepare(state, sampling, payload, ids, shapes),
        )

    def _prepare(
        self, state: EdgeState, sampling: Sampling, payload: Payload, ids: DraftIds, shapes: Shapes
    ) -> Future[None]:
        """Make the program of a round while the device drafts its first."""
        blank = payload.decode_uplink(b"\0", shapes.max_draft_length, ids)
        parts = {
            "target": self.target,
            "sampling": sampling,
            "payload": payload,
            "ids": ids,
            "eos_ids": self._eos_ids,
        }
        (state, blank), parts = jax.eval_shape(lambda *known: known, (state, blank), parts)
        key = (
            jax.tree.structure(parts),
            tuple(leaf.shape for leaf in jax.tree.leaves((state, blank, parts["ids"]))),
            shapes,
        )
        if key not in self._programs:
            self._programs[key] = in_background(lambda: _verify.lower(state, blank, **parts, shapes=shapes).compile())
        return self._programs[key]

    def _decode(self, data: bytes, session: _Session) -> Uplink:
        """A round's message, checked against the session."""
        try:
            uplink = session.payload.decode_uplink(data, session.shapes.max_draft_length, session.ids)
        except ValueError as error:
            raise Refused("invalid", f"the uplink is no {session.payload.scheme} message: {error}") from None
        named = np.concatenate(
            [np.asarray(part).ravel() for part in (uplink.tokens, uplink.pending, uplink.repeated) if part is not None]
        )
        if named.max(initial=0) >= self.target.config.valid_outputs:
            raise Refused("invalid", f"the uplink names id {named.max()}, which the target does not have")
        return uplink


_open = jax.jit(open_edge, static_argnames="shapes")
_reopen = jax.jit(reopen_edge, static_argnames="shapes")
_verify = jax.jit(verify, static_argnames="shapes", donate_argnames="state")
