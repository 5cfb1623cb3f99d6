"""Two machines over a real socket: the text is that of one process, whatever the network does."""

import dataclasses
import random
import time

import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.control.banditspec import banditspec
from gelato_jax.decoding import lookup, memory
from gelato_jax.errors import GelatoError
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import AwayError, EdgeClient
from gelato_jax.remote.device import stream, without_weights
from gelato_jax.remote.edge import serve
from gelato_jax.remote.guests import Guests
from gelato_jax.remote.sessions import CROWDED_S, IDLE_S, Refused, Sessions
from gelato_jax.testing import tiny_pair
from gelato_jax.types import RepeatOdds, RepeatOddsSet

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
SCHEMES = {
    "full": payloads.full(),
    "top_p": payloads.top_p(0.8),
    "top_k": payloads.top_k(5),
    "quantized": payloads.quantized(5),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(1),  # so few that rows are asked for
    "seeded": payloads.seeded(),
}


@pytest.fixture(scope="module")
def pair():
    """A draft that knows some ids, with odds of repeats: every field of every message is in use."""
    pair = dataclasses.replace(tiny_pair(0.02, exits=()), eos_ids=(61,))
    shape = (pair.draft.work.shape[0], 2)
    odds = RepeatOdds(slope=jnp.full(shape, 0.5), offset=jnp.full(shape, 0.5), unseen=jnp.full(2, 0.4))
    return dataclasses.replace(
        pair, draft=dataclasses.replace(pair.draft, repeats=RepeatOddsSet(greedy=odds, sampled=odds))
    )


@pytest.fixture(scope="module")
def sessions(pair):
    return Sessions(pair.target, pair.tokenizer.fingerprint, most=3)


@pytest.fixture(scope="module")
def port(sessions):
    server, port = serve(sessions, "127.0.0.1:0", model="tiny")
    yield port
    server.stop(0)


@pytest.fixture
def client(port):
    client = EdgeClient(f"127.0.0.1:{port}", patience_s=5)
    yield client
    client.close()


def settings(**changes):
    return gelato.DecodeSettings(
        **{"max_draft_length": 3, "stream_length": 7, "max_new_tokens": 32, "temperature": 1.0, "seed": 5, **changes}
    )


def choices(payload="candidates"):
    return {
        "controller": banditspec(),  # every length in its turn, none among them
        "length_exit": control.length_exits.none(),
        "payload": SCHEMES[payload],
    }


def run(pair, client, **changes):
    """Text over the wire, by a device that has no target."""
    payload = changes.pop("payload", "candidates")
    watched = stream(without_weights(pair), PROMPT, client, settings=settings(**changes), **choices(payload))
    for _ in watched:
        pass
    return watched.generation()


@pytest.fixture(scope="module")
def expected(pair):
    """The same request in one process."""
    kept = {}

    def find(payload="candidates", **changes):
        key = (payload, *sorted(changes.items()))
        if key not in kept:
            kept[key] = gelato.generate(pair, [PROMPT], settings=settings(**changes), **choices(payload))
        return kept[key]

    return find


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("payload", SCHEMES)
def test_text_over_the_wire_is_that_of_one_process(payload, temperature, pair, client, expected):
    found, whole = (f(payload=payload, temperature=temperature) for f in (lambda **c: run(pair, client, **c), expected))
    assert found.tokens == whole.tokens
    assert whole.totals.passes[0] > whole.totals.rounds[0]  # some rounds stream
    for name in ("rounds", "passes", "drafted", "accepted", "tokens"):
        np.testing.assert_array_equal(getattr(found.totals, name), getattr(whole.totals, name))
    np.testing.assert_allclose(found.final_queue_j, whole.final_queue_j, rtol=1e-5)
    assert client.traffic.rounds == found.totals.rounds[0]
    assert client.traffic.sent_bytes > 0


@pytest.mark.parametrize("may_stop", [False, True])
def test_the_next_round_is_drafted_while_one_is_read_unless_the_text_may_end_there(may_stop, pair, client):
    watched = stream(without_weights(pair), PROMPT, client, settings=settings(), **choices())
    watched.one_by_one = may_stop
    rounds = iter(watched)
    next(rounds)
    assert (watched.ahead is None) == may_stop
    rounds.close()


def test_a_stream_comes_in_pieces_that_nobody_asks_for(pair, client, monkeypatch):
    """One message for seven tokens, in rounds of four and three."""
    calls = []
    monkeypatch.setattr(
        client, "call", lambda method, request, call=client.call: calls.append(method) or call(method, request)
    )
    given = {"settings": settings(max_new_tokens=15), **choices(), "controller": control.static(0)}
    watched = stream(without_weights(pair), PROMPT, client, **given)
    seen = list(watched)
    assert [int(each.tokens[0]) for each in seen] == [4, 3, 4, 3]
    assert [float(each.uplink_bits[0]) for each in seen] == [8, 0, 8, 0]
    assert [float(each.cost.propagation_s[0]) > 0 for each in seen] == [True, False, True, False]
    assert calls == ["Open"]
    assert (client.traffic.rounds, client.traffic.messages, client.traffic.sent_bytes) == (4, 2, 2)
    assert watched.generation().tokens == gelato.generate(pair, [PROMPT], **given).tokens


def test_a_stream_that_is_left_is_not_gone_on_with(pair, client, sessions):
    given = {"settings": settings(max_new_tokens=200, stream_length=63), **choices(), "controller": control.static(0)}
    watched = stream(without_weights(pair), PROMPT, client, **given)
    next(iter(watched))
    watched.close()
    until = time.monotonic() + 5.0
    while watched.opening.session in sessions._sessions and time.monotonic() < until:  # nobody waits for a goodbye
        time.sleep(0.01)
    assert watched.opening.session not in sessions._sessions
    rounds = sessions.tally.rounds
    time.sleep(0.5)
    assert sessions.tally.rounds <= rounds + 1


def test_a_stream_whose_answers_are_lost_goes_on_from_there(pair):
    """The edge is ahead: it says again what it said, and moves nothing."""
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    sessions.open(opening(pair, max_new_tokens=32))
    call = pb.VerifyRequest(session=bytes(range(16)), round=1, uplink=bytes([11 << 2 | 2]))
    said = list(sessions.stream(call))
    assert len(said) == 3  # of four, four and three tokens
    assert list(sessions.stream(call)) == said
    rest = pb.VerifyRequest(session=call.session, round=5, uplink=bytes([7 << 2 | 2]))
    assert list(sessions.stream(rest)) == said[1:]
    with pytest.raises(Refused, match="round 1 does not follow; the next is 12"):
        sessions.verify(call)  # the device has had it
    assert sessions.tally.rounds == 3


@pytest.mark.parametrize("payload", ["full", "candidates", "seeded"])
def test_a_draft_without_weights_travels_too(payload, pair, client):
    """Its q has one column, and no id of a vocabulary: the edge is told so."""
    looked_up = dataclasses.replace(pair, draft=lookup())
    given = {"settings": settings(stream_length=3), **choices(payload)}
    watched = stream(without_weights(looked_up), PROMPT, client, **given)
    for _ in watched:
        pass
    whole = gelato.generate(looked_up, [PROMPT], **given)
    assert watched.generation().tokens == whole.tokens
    assert whole.totals.drafted[0] > 3


class Faulty:
    """Sessions behind a network that loses calls and answers, and an edge that forgets and is restarted."""

    def __init__(self, sessions, seed, chance=0.3):
        self.sessions, self.random, self.chance = sessions, random.Random(seed), chance
        self.lost_calls = self.lost_answers = self.forgotten = 0

    def __getattr__(self, name):
        return getattr(self.sessions, name)

    def __len__(self):
        return len(self.sessions)

    def _disturbed(self, call, request, owner):
        if self.random.random() < self.chance:
            self.lost_calls += 1
            raise LostError
        if self.random.random() < self.chance / 2:
            self.forgotten += 1
            self.sessions._sessions.clear()
        answer = call(request, owner)
        if self.random.random() < self.chance:
            self.lost_answers += 1
            raise LostError
        return answer

    def open(self, request, owner):
        return self._disturbed(self.sessions.open, request, owner)

    def verify(self, request, owner):
        return self._disturbed(self.sessions.verify, request, owner)

    def stream(self, request, owner):
        for answer in self._disturbed(self.sessions.stream, request, owner):
            yield self._disturbed(lambda *_, answer=answer: answer, request, owner)

    def row(self, request, owner):
        return self._disturbed(self.sessions.row, request, owner)


class LostError(Refused):
    """What a device sees of a broken connection."""

    def __init__(self):
        super().__init__("away", "connection reset")


@pytest.mark.parametrize("payload", ["candidates", "scalar", "seeded", "full"])
def test_lost_calls_lost_answers_and_a_forgetful_edge_change_no_token(payload, pair, expected):
    faulty = Faulty(Sessions(pair.target, pair.tokenizer.fingerprint), seed=len(payload))
    server, port = serve(faulty, "127.0.0.1:0")
    client = EdgeClient(f"127.0.0.1:{port}", patience_s=60)
    try:
        found = run(pair, client, payload=payload)
    finally:
        client.close()
        server.stop(0)
    assert found.tokens == expected(payload=payload).tokens
    assert min(faulty.lost_calls, faulty.lost_answers, faulty.forgotten) >= 2
    assert client.traffic.reopened >= 1


@pytest.fixture
def left_alone(pair):
    """Streams whose edge goes away behind four rounds."""
    clients = []

    def begin(payload, temperature, **given):
        server, port = serve(Sessions(pair.target, pair.tokenizer.fingerprint), "127.0.0.1:0")
        clients.append(EdgeClient(f"127.0.0.1:{port}", patience_s=0.5))
        given = {"settings": settings(temperature=temperature), **choices(payload), **given}
        watched = stream(without_weights(pair), PROMPT, clients[-1], **given)
        rounds = iter(watched)
        for _ in range(4):
            next(rounds)
        watched.answers = None  # what is on its way already does not arrive
        server.stop(None).wait()
        return watched, rounds

    yield begin
    for client in clients:
        client.close()


def test_an_edge_that_stays_away_is_an_error(left_alone):
    _, rounds = left_alone("candidates", 1.0)
    with pytest.raises(AwayError, match="does not answer"):
        list(rounds)


@pytest.mark.parametrize(("payload", "temperature"), [("candidates", 1.0), ("full", 1.0), ("scalar", 0.0)])
def test_the_draft_may_go_on_alone_and_says_from_where(payload, temperature, left_alone, pair, expected):
    """Its text is the target's up to there."""
    watched, rounds = left_alone(payload, temperature, offline=True)
    known = len(watched.generation().tokens[0])
    for seen in rounds:
        assert seen.tokens[0] == seen.drafted[0] or seen.done[0]
    text, wanted = watched.generation().tokens[0], expected(payload=payload, temperature=temperature).tokens[0]
    assert len(text) in (31, 32) or text[-1] in pair.eos_ids
    assert watched.alone_from == known
    assert text[:known] == wanted[:known]
    assert text != wanted


def test_devices_beside_each_other_do_not_meet(pair, client, port, expected):
    """Rounds of two requests by turns."""
    other = EdgeClient(f"127.0.0.1:{port}")
    watched = [
        stream(without_weights(pair), PROMPT, each, settings=settings(seed=seed), **choices())
        for each, seed in ((client, 5), (other, 6))
    ]
    rounds = [iter(each) for each in watched]
    while rounds:
        rounds = [each for each in rounds if next(each, None) is not None]
    texts = [each.generation().tokens for each in watched]
    assert texts == [expected(seed=5).tokens, expected(seed=6).tokens]
    assert texts[0] != texts[1]
    other.close()


def test_a_target_without_weights_has_none(pair):
    assert without_weights(pair).target.params == {}


def opening(pair, **changes):
    fields = {
        "session": bytes(range(16)),
        "vocabulary": pair.tokenizer.fingerprint,
        "payload": pb.Payload(scheme="seeded"),
        "sampling": pb.Sampling(temperature=0.0, top_p=1.0),
        "tokens": PROMPT,
        "prompt_length": len(PROMPT),
        "max_new_tokens": 8,
        "max_draft_length": 3,
    }
    return pb.OpenRequest(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"vocabulary": "others"}, "mismatch", "tokenizer is others"),
        ({"session": b"short"}, "invalid", "has 16 bytes, this one 5"),
        ({"tokens": [], "prompt_length": 0}, "invalid", "0 ids"),
        ({"prompt_length": 3}, "invalid", "round 0"),
        ({"tokens": [4000], "prompt_length": 1}, "invalid", "id 4000 is none of the target's"),
        ({"max_new_tokens": 5000}, "invalid", "4096 positions"),
        ({"max_new_tokens": 0}, "invalid", "positions"),
        ({"max_draft_length": 33}, "invalid", "at most 32"),
        ({"payload": pb.Payload(scheme="smoke")}, "invalid", "'smoke' is unknown"),
        ({"payload": pb.Payload(scheme="top_p", number=7.0)}, "invalid", "top_p"),
        ({"payload": pb.Payload(scheme="candidates", number=0)}, "invalid", "candidates"),
        ({"payload": pb.Payload(scheme="full", known=[5, 4])}, "invalid", "must ascend"),
        ({"sampling": pb.Sampling(temperature=-1.0, top_p=1.0)}, "invalid", "temperature"),
        ({"sampling": pb.Sampling(temperature=float("nan"), top_p=1.0)}, "invalid", "temperature"),
    ],
)
def test_an_opening_that_cannot_be_is_refused(changes, kind, words, pair):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    with pytest.raises(Refused, match=words) as refused:
        sessions.open(opening(pair, **changes))
    assert refused.value.kind == kind
    assert len(sessions) == 0


def test_a_bad_message_ends_its_call_and_nothing_else(pair):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    first = sessions.open(opening(pair))
    name = bytes(range(16))
    for round_, uplink, words in (
        (1, b"", "no seeded message"),
        (1, b"\xff" * 40, "no seeded message"),
        (7, b"\0", "round 7 does not follow; the next is 1"),
        (0, b"\0", "round 0"),
    ):
        with pytest.raises(Refused, match=words):
            sessions.verify(pb.VerifyRequest(session=name, round=round_, uplink=uplink))
    with pytest.raises(Refused, match="no row"):
        sessions.row(pb.RowRequest(session=name, round=1))
    with pytest.raises(Refused, match="no such session"):
        sessions.verify(pb.VerifyRequest(session=b"x" * 16, round=1, uplink=b"\0"))
    answer = sessions.verify(pb.VerifyRequest(session=name, round=1, uplink=b"\0"))  # no drafts
    assert answer == sessions.verify(pb.VerifyRequest(session=name, round=1, uplink=b"\0"))  # repeated
    assert sessions.open(opening(pair)).first_token == first.first_token


def test_sessions_are_limited_and_idle_ones_make_room(pair):
    now = [0.0]
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint, most=2, clock=lambda: now[0])
    names = [bytes([number]) * 16 for number in range(3)]
    for name in names[:2]:
        sessions.open(opening(pair, session=name))
    with pytest.raises(Refused, match="serves 2 sessions already") as refused:
        sessions.open(opening(pair, session=names[2]))
    assert refused.value.kind == "full"
    now[0] = CROWDED_S - 1
    sessions.verify(pb.VerifyRequest(session=names[1], round=1, uplink=b"\0"))
    with pytest.raises(Refused, match="serves 2 sessions already"):
        sessions.open(opening(pair, session=names[2]))
    now[0] = CROWDED_S + 1
    sessions.open(opening(pair, session=names[2]))
    with pytest.raises(Refused, match="no such session"):
        sessions.verify(pb.VerifyRequest(session=names[0], round=1, uplink=b"\0"))
    sessions.verify(pb.VerifyRequest(session=names[1], round=2, uplink=b"\0"))
    sessions.close(pb.CloseRequest(session=names[1]))
    assert len(sessions) == 1


def test_a_text_that_would_not_fit_the_edges_memory_is_refused(pair, monkeypatch):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    monkeypatch.setattr(memory, "free_bytes", lambda: 100)
    with pytest.raises(Refused, match=r"no memory left for a text of \d+ tokens; try again later") as refused:
        sessions.open(opening(pair))
    assert (refused.value.kind, len(sessions)) == ("full", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    sessions.open(opening(pair))
    assert len(sessions) == 1


def test_where_there_is_room_a_session_stays_for_long_and_one_that_is_computed_for_is_never_forgotten(pair):
    now = [0.0]
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint, most=2, clock=lambda: now[0])
    first, second, third = (bytes([number]) * 16 for number in range(3))
    sessions.open(opening(pair, session=first))
    now[0] = IDLE_S - 1
    sessions.open(opening(pair, session=second))
    assert len(sessions) == 2
    with sessions._sessions[first].lock, pytest.raises(Refused, match="serves 2 sessions already"):
        sessions.open(opening(pair, session=third))
    sessions.close(pb.CloseRequest(session=second))
    now[0] = IDLE_S + 1
    sessions.open(opening(pair, session=second))
    assert len(sessions) == 1


def test_an_edge_says_what_it_serves(client, pair):
    info = client.info()
    assert (info.model, info.vocabulary, info.ids) == ("tiny", "numbers", pair.target.config.valid_outputs)
    assert info.most_sessions == 3


def test_a_wrong_token_is_turned_away(sessions):
    server, port = serve(sessions, "127.0.0.1:0", guests=Guests({"left": 1, "right": 1}))
    try:
        assert EdgeClient(f"127.0.0.1:{port}", token="right").info().most_sessions == 3
        for token in ("wrong", None):
            with pytest.raises(GelatoError, match="the token is missing or wrong"):
                EdgeClient(f"127.0.0.1:{port}", token=token).info()
    finally:
        server.stop(0)


def test_an_edge_is_not_open_to_others_by_mistake(sessions):
    for address in ("0.0.0.0:0", "[::]:0", "example.org:0"):
        with pytest.raises(GelatoError, match="open to other machines: give --token-file"):
            serve(sessions, address)
    with pytest.raises(GelatoError, match="is not HOST:PORT"):
        serve(sessions, "8470")
    server, port = serve(sessions, "127.0.0.1:0")
    with pytest.raises(GelatoError, match="cannot be listened on"):
        serve(sessions, f"127.0.0.1:{port}")
    server.stop(0)


def test_an_edge_that_is_not_there_is_named():
    with pytest.raises(GelatoError, match=r"127.0.0.1:9 does not answer .*gelato edge"):
        EdgeClient("127.0.0.1:9", patience_s=0.1).info()


class Dishonest:
    """An edge that answers what it likes."""

    def __init__(self, sessions, **answers):
        self.sessions, self.answers = sessions, answers

    def __getattr__(self, name):
        return getattr(self.sessions, name)

    def open(self, request, owner):
        return self.answers.get("open") or self.sessions.open(request, owner)

    def verify(self, request, owner):
        return self.answers["verify"]

    def stream(self, request, owner):
        yield self.answers["verify"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"open": pb.OpenReply(first_token=4000)}, "first token 4000 is none"),
        ({"verify": pb.VerifyReply(downlink=b"")}, "its answer is no seeded message"),
        ({"verify": pb.VerifyReply(downlink=b"\xfc\0")}, "counts 63 tokens of at most"),
        ({"verify": pb.VerifyReply(downlink=b"\0\xff")}, "names ids that there are not"),
    ],
)
def test_an_answer_that_cannot_be_is_an_error_of_one_line(answers, words, pair):
    server, port = serve(Dishonest(Sessions(pair.target, pair.tokenizer.fingerprint), **answers), "127.0.0.1:0")
    client = EdgeClient(f"127.0.0.1:{port}")
    try:
        with pytest.raises(GelatoError, match=words):
            run(pair, client, payload="seeded")
    finally:
        client.close()
        server.stop(0)
