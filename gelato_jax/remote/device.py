"""The device's end over a network: `stream` as `gelato_jax.stream`, with the target on another machine.

A round's number makes every call idempotent, so whatever is lost is sent again. An edge that has forgotten the session
is told the committed text, reads it, and goes on: a pause, never a lost, doubled or changed token.
"""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax import keys
from gelato_jax.decoding import DecodeSettings, Pair, Stream, encode_prompts, make_job
from gelato_jax.decoding.ends import Device
from gelato_jax.decoding.generation import open_session, refuse_faults
from gelato_jax.decoding.prefill import open_device, open_rows
from gelato_jax.decoding.programs import in_background, once, outline, pack, text_of
from gelato_jax.decoding.records import DecodeState, Job, Session, Shapes
from gelato_jax.decoding.round import Begun, begin_round, end_round
from gelato_jax.errors import GelatoError
from gelato_jax.models import Cache, Model
from gelato_jax.payloads import Downlink, Uplink
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import AwayError, Client, Traffic
from gelato_jax.remote.clock import Clock
from gelato_jax.remote.wire import SESSION_BYTES, describe_payload, describe_sampling
from gelato_jax.types import Observation


@dataclasses.dataclass
class RemoteStream(Stream):
    """A `Stream` of one prompt whose rounds are verified by an edge."""

    client: Client
    """Where the target is."""
    opening: pb.OpenRequest
    """How the session began."""
    number: int = 1
    """Of the round that comes next, as the row counts passes."""
    clock: Clock | None = None
    """Whose system is planned and counted by."""
    offline: bool = False
    """Whether the draft goes on alone, to the end of the answer, once the edge stays away."""
    alone_from: int | None = None
    """Token of the answer, from 0, from which the draft went on alone: what follows is not the target's text."""
    answers: Iterator[pb.VerifyReply] | None = None
    """Of a stream that goes on by itself."""
    ahead: tuple[Begun, Uplink] | None = None
    """What the next round begins with: it is drafted while this one is read and shown."""
    closed: bool = False
    """Whether the edge has been told that the session is over."""
    no_row: Array = dataclasses.field(init=False)
    """In place of a target's row that nobody asked for."""

    def __post_init__(self) -> None:
        """Make what every round is given."""
        self.no_row = jnp.zeros((1, self.job.draft_ids.vocab_size), jnp.float32)

    @property
    def traffic(self) -> Traffic:
        """What was measured so far."""
        return self.client.traffic

    def __iter__(self) -> Iterator[Observation]:
        """Run rounds until the text ends, and tell the edge that it has."""
        if self.clock is not None:
            self.clock.rest()
        try:
            for seen in super().__iter__():
                if self.clock is not None:
                    self.traffic.metered_j += self.clock.pay(jax.tree.map(lambda leaf: leaf[0], seen.cost))
                yield seen
        finally:
            self.close()

    def close(self) -> None:
        """Tell the edge, once, that the session is over."""
        if not self.closed:
            self.closed, self.answers = True, None
            self.client.forget(self.opening.session)

    def _rounds(self) -> Sequence[np.ndarray]:
        if self.alone_from is None:
            try:
                return [self._round()]
            except AwayError:
                if not self.offline:
                    raise
                self.alone_from = int(self.state.device.length[0]) - int(self.prompt_length[0])
        return self._round_alone()

    def _round(self) -> np.ndarray:
        payload, ids = self.job.policy.payload, self.job.draft_ids
        begun, uplink = self.ahead or self._draft(least=0)
        self.ahead = None
        uplink = jax.device_get(uplink)
        message = payload.encode_uplink(uplink, 0, ids)
        verify = pb.VerifyRequest(session=self.opening.session, round=self.number, uplink=message)

        began = time.perf_counter()
        drafted, left = int(uplink.length[0]), int(uplink.wanted[0])
        reply, sent = self._answer(verify, streams=drafted == 0 and left > 1)
        data, waited_s, traffic = reply.downlink, time.perf_counter() - began, self.traffic
        edge_s = min(reply.edge_s, waited_s) if reply.edge_s >= 0.0 else 0.0  # whatever an edge says
        traffic.add(waited_s=waited_s, edge_s=edge_s, sent=len(message) if sent else 0, received=len(data))

        downlink = self._read(data, drafted)
        passes = int(downlink.num_streamed[0]) + 1
        if passes >= left:
            self.answers = None
        if self.clock is not None:
            clock, bits, network_s = self.clock, (8 * len(message), 8 * len(data)), waited_s - edge_s
            if self.number > 1 and sent:  # the edge may have compiled for the first
                clock.see(drafted=drafted, passes=passes, network_s=network_s, edge_s=edge_s, bits=bits)
            self.job = dataclasses.replace(self.job, system=clock.system)
            traffic.delay_s, traffic.edge_factor = clock.delay_s, clock.edge_factor
            traffic.device_factor = clock.device_factor
        commit = partial(_commit, self.state, begun, downlink, job=self.job, shapes=self.shapes)
        after, packed, asked = commit(self.no_row)
        if payload.keeps_row and np.asarray(asked)[0]:
            after, packed, _ = commit(self._row(verify)[None])
        self.state, self.number = after, self.number + passes
        if not self.one_by_one:  # else the answer may be over
            self.ahead = self._draft(least=0)
        return np.asarray(packed)

    def _round_alone(self) -> Sequence[np.ndarray]:
        """A round of an edge that accepts all drafts but the last, and says that one itself.

        The last token of a full answer is never drafted: such an answer ends ahead of it.

        Raises:
            AwayError: there are no drafts, as where they are looked up.
        """
        begun, uplink = self._draft(least=self.shapes.max_draft_length)
        made, tokens, length = begun.drafted.own, np.asarray(uplink.tokens), np.asarray(uplink.length)
        if length[0] == 0 and self.state.device.limit[0] - self.state.device.length[0] == 1:
            self.end(np.ones(1, bool))
            return []
        if length[0] == 0:
            raise AwayError(f"edge {self.client.address} does not answer, and the draft has nothing to go on with")
        proposal = dataclasses.replace(made.proposal, length=jnp.asarray(length - 1))
        drafted = dataclasses.replace(begun.drafted, own=dataclasses.replace(made, proposal=proposal))
        blank = self.job.policy.payload.blank_downlink(self.shapes.max_draft_length, self.job.draft_ids)
        downlink = dataclasses.replace(blank, accepted=length - 1, next_token=tokens[:, length[0] - 1])
        begun = begun._replace(drafted=drafted)
        self.state, packed, _ = _commit(self.state, begun, downlink, self.no_row, job=self.job, shapes=self.shapes)
        return [np.asarray(packed)]

    def _draft(self, *, least: int) -> tuple[Begun, Uplink]:
        """Begin the round. The cache is written in place: what it holds behind its length means nothing."""
        bare, cache = _apart(self.state)
        begun, uplink = _draft(cache, bare, self.job, np.int32(least), shapes=self.shapes)
        self.state = _together(bare, begun.drafted.own.cache)
        return begun, uplink

    def _answer(self, verify: pb.VerifyRequest, *, streams: bool) -> tuple[pb.VerifyReply, bool]:
        """The answer to a round, and whether it was sent for; of a stream that goes on by itself, the next."""
        sent = self.answers is None
        if sent and streams:
            self.answers = self.client.stream(verify)
        if self.answers is not None:
            reply = next(self.answers, None)
            if reply is not None:
                return reply, sent
            self.answers = None
            self.traffic.retries += 1
        return self._ask("Verify", verify), True

    def _read(self, data: bytes, length: int) -> Downlink:
        """An answer to `length` drafts.

        Raises:
            GelatoError: it is none, or names more drafts or other ids than there are.
        """
        payload, ids = self.job.policy.payload, self.job.draft_ids
        try:
            downlink = payload.decode_downlink(data, length, self.shapes.max_draft_length, ids)
        except ValueError as error:
            raise GelatoError(
                f"edge {self.client.address}: its answer is no {payload.scheme} message: {error}"
            ) from None
        named = [part for part in (downlink.next_token, downlink.candidates, downlink.streamed) if part is not None]
        if max(int(np.max(part, initial=0)) for part in named) >= ids.vocab_size:
            raise GelatoError(f"edge {self.client.address}: its answer names ids that there are not")
        return downlink

    def _row(self, verify: pb.VerifyRequest) -> np.ndarray:
        """The target's row of this round; an edge that has forgotten the round is asked it once more."""
        request = pb.RowRequest(session=verify.session, round=verify.round)
        payload, ids = self.job.policy.payload, self.job.draft_ids
        while True:
            try:
                row = self.client.call("Row", request).row
            except KeyError:
                self._ask("Verify", verify)
            else:
                return payload.decode_row(row, ids)  # type: ignore[attr-defined]

    def _ask(self, method: str, request: Any) -> Any:
        """Make a call of this round; an edge that does not know the session is told the text so far."""
        while True:
            try:
                return self.client.call(method, request)
            except KeyError:
                self.traffic.reopened += 1
                device = self.state.device
                text = np.asarray(device.tokens)[0, : int(device.length[0])].tolist()
                again = pb.OpenRequest()
                again.CopyFrom(self.opening)
                again.round = self.number
                del again.tokens[:]
                again.tokens.extend(text)
                self.client.call("Open", again)


def stream(
    pair: Pair,
    prompt: str | list[int],
    client: Client,
    *,
    settings: DecodeSettings | None = None,
    raw: bool = False,
    session: Session | None = None,
    clock: Clock | None = None,
    offline: bool = False,
    **choices: Any,
) -> RemoteStream:
    """As `gelato_jax.stream`, of one prompt, with the target behind `client`. Of the pair's target the shape is used.

    Args:
        pair: draft, tokenizer, and a target of the edge's vocabulary.
        prompt: text, or ids.
        client: the edge.
        settings: see there.
        raw: see there.
        session: see there.
        clock: whose system, with the delay and the edge's times that it measures, is taken in place of `system`. What
            is drafted then follows the network: sampled text has the same distribution, but is not the same at the
            same seed, unless the payload is `seeded`.
        offline: whether the draft goes on alone where the edge stays away; `RemoteStream.alone_from` says from where.
        **choices: see there.

    Raises:
        GelatoError: as there; or the edge refuses, does not answer, or is of another vocabulary.
    """
    settings = settings or DecodeSettings()
    pair = without_weights(pair)
    choices = choices if clock is None else {**choices, "system": clock.system}
    job = make_job(pair, settings=settings, **choices)
    batch = encode_prompts(pair, [prompt], settings, raw=raw)  # type: ignore[list-item]
    session = open_session(session, job, 1)
    length = int(batch["prompt_length"][0])
    seed = settings.seed if isinstance(settings.seed, int | np.integer) else settings.seed[0]
    opening = pb.OpenRequest(
        session=os.urandom(SESSION_BYTES),
        vocabulary=pair.tokenizer.fingerprint,
        payload=describe_payload(job.policy.payload, job.draft_ids),
        sampling=describe_sampling(job.sampling, int(seed)),
        tokens=np.asarray(batch["tokens"])[0, :length].tolist(),
        prompt_length=length,
        max_new_tokens=settings.max_new_tokens,
        max_draft_length=settings.max_draft_length,
    )
    reply = client.call("Open", opening)
    if reply.first_token >= job.draft_ids.vocab_size:
        raise GelatoError(f"edge {client.address}: its first token {reply.first_token} is none of the vocabulary's")
    first = jnp.asarray([reply.first_token], jnp.int32)
    state = _begin(job, **batch, session=session, first=first, fault=jnp.asarray([reply.fault]), shapes=settings.shapes)
    refuse_faults(jax.device_get(text_of(state)))
    return RemoteStream(
        pair=pair,
        state=state,
        job=job,
        shapes=settings.shapes,
        first=np.asarray(first)[None],
        done=np.asarray(state.device.done),
        prompt_length=batch["prompt_length"],
        preparation=_prepare(state, job, settings.shapes),
        client=client,
        opening=opening,
        clock=clock,
        offline=offline,
    )


def without_weights(pair: Pair) -> Pair:
    """The pair as a device needs it: its target is a shape. A draft that looks up the target's embedding keeps that."""
    return dataclasses.replace(pair, target=Model(config=pair.target.config, params={}))


@partial(jax.jit, static_argnames="shapes")
def _begin(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seeds: Array,
    session: Session,
    first: Array,
    fault: Array,
    *,
    shapes: Shapes,
) -> DecodeState:
    """The device's half of `prefill`, once the edge has said the first token."""
    row_keys = keys.row_keys(seeds)
    row, reads = open_rows(job, prompt_length, limit, row_keys, shapes, session)
    device = open_device(job, tokens, prompt_length, limit, row_keys, reads, first, fault, shapes)
    return DecodeState(device=device, edge=None, row=row)


def _prepare(state: DecodeState, job: Job, shapes: Shapes) -> Future[None]:
    """Compile a round's two halves in a thread, while the edge prepares its own."""

    def make() -> None:
        bare, cache = _apart(state)
        drafting = _draft.lower(cache, bare, job, np.int32(0), shapes=shapes)
        drafting.compile()
        begun, _ = drafting.out_info
        ids = job.draft_ids
        fetched = jax.ShapeDtypeStruct((1, ids.vocab_size), jnp.float32)
        downlink = job.policy.payload.blank_downlink(shapes.max_draft_length, ids)
        _commit.lower(state, begun, downlink, fetched, job=job, shapes=shapes).compile()

    return once(("device", shapes, outline((state, job))), lambda: in_background(make))


def _apart(state: DecodeState) -> tuple[DecodeState, Cache]:
    """A state without the draft's cache, and that."""
    return _together(state, ()), state.device.cache


def _together(state: DecodeState, cache: Cache) -> DecodeState:
    return dataclasses.replace(state, device=dataclasses.replace(state.device, cache=cache))


@partial(jax.jit, static_argnames="shapes", donate_argnames="cache")
def _draft(cache: Cache, state: DecodeState, job: Job, least: Array, *, shapes: Shapes) -> tuple[Begun, Uplink]:
    """`begin_round`, compiled."""
    state = _together(state, cache)
    return begin_round(state, Device(job, shapes), job.setup, shapes.max_draft_length, least=least)


@partial(jax.jit, static_argnames="shapes")
def _commit(
    state: DecodeState, begun: Begun, downlink: Downlink, fetched: Array, *, job: Job, shapes: Shapes
) -> tuple[DecodeState, Array, Array]:
    """`end_round`, compiled: the observation packed, and whether `fetched [B, V]`, the target's row, was asked for."""
    state, seen, committed = end_round(state, begun, downlink, lambda: fetched, Device(job, shapes), job.setup)
    return state, pack(seen), committed.asked
