"""Who may call an edge, and how often; sessions belong to who opened them; counters for Prometheus."""

import dataclasses
import urllib.request

import pytest

from gelato_jax.errors import GelatoError
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.edge import serve
from gelato_jax.remote.guests import Guests, TooManyError, UnknownError
from gelato_jax.remote.metrics import show
from gelato_jax.remote.sessions import Refused, Sessions
from gelato_jax.testing import tiny_pair

NAME = bytes(range(16))


@pytest.fixture(scope="module")
def pair():
    return dataclasses.replace(tiny_pair(0.02, exits=()), eos_ids=(61,))


def opening(pair, **changes):
    fields = {
        "session": NAME,
        "vocabulary": pair.tokenizer.fingerprint,
        "payload": pb.Payload(scheme="seeded"),
        "sampling": pb.Sampling(temperature=0.0, top_p=1.0),
        "tokens": [3, 1, 4],
        "prompt_length": 3,
        "max_new_tokens": 16,
        "max_draft_length": 3,
    }
    return pb.OpenRequest(**{**fields, **changes})


def test_a_guest_is_known_by_its_token_which_its_name_does_not_tell():
    guests = Guests({"first": 1, "second": 1})
    names = [guests.admit(f"Bearer {token}", "ipv4:10.0.0.1:5000") for token in ("first", "second", "first")]
    assert names[0] == names[2] != names[1]
    assert "first" not in names[0]
    for given in ("", "first", "Bearer third", b"Bearer \xff"):
        with pytest.raises(UnknownError):
            guests.admit(given, "ipv4:10.0.0.1:5000")


def test_without_tokens_calls_are_counted_by_address_which_is_no_name():
    """A device that moves goes on with its session."""
    guests = Guests(calls_per_s=0.5, clock=lambda: 0.0)
    assert guests.admit("", "ipv4:10.0.0.1:5000") == guests.admit("", "ipv4:10.0.0.2:5000")
    with pytest.raises(TooManyError):
        guests.admit("", "ipv4:10.0.0.1:6000")


def test_calls_are_counted_by_guest_and_by_second():
    now = [0.0]
    guests = Guests({"first": 1, "second": 1}, calls_per_s=5, clock=lambda: now[0])
    call = lambda token: guests.admit(f"Bearer {token}", "")  # noqa: E731
    for _ in range(10):  # two seconds' worth at once
        call("first")
    with pytest.raises(TooManyError, match="more than 5 calls a second"):
        call("first")
    call("second")
    now[0] = 0.2
    call("first")
    with pytest.raises(TooManyError):
        call("first")


def test_a_session_is_its_owners_alone(pair):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    sessions.open(opening(pair), "first")
    call = pb.VerifyRequest(session=NAME, round=1, uplink=b"\0")
    for ask in (sessions.verify, lambda call, owner: next(sessions.stream(call, owner)), sessions.row):
        with pytest.raises(Refused, match="no such session"):
            ask(call, "second")
    with pytest.raises(Refused, match="name is taken"):
        sessions.open(opening(pair), "second")
    sessions.close(pb.CloseRequest(session=NAME), "second")
    assert len(sessions) == 1
    sessions.verify(call, "first")
    sessions.close(pb.CloseRequest(session=NAME), "first")
    assert len(sessions) == 0


def test_a_guest_cannot_fill_the_edge(pair):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint, most=4, most_each=2)
    for name in (b"a" * 16, b"b" * 16):
        sessions.open(opening(pair, session=name), "first")
    with pytest.raises(Refused, match="you have 2 sessions") as refused:
        sessions.open(opening(pair, session=b"c" * 16), "first")
    assert refused.value.kind == "full"
    sessions.open(opening(pair, session=b"b" * 16, tokens=[5], prompt_length=1), "first")  # in place of its own
    sessions.open(opening(pair, session=b"c" * 16), "second")
    assert len(sessions) == 3


def test_a_device_that_calls_too_often_waits(pair):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    guests = Guests(calls_per_s=2)
    server, port = serve(sessions, "127.0.0.1:0", guests=guests)
    client = EdgeClient(f"127.0.0.1:{port}", patience_s=20)
    try:
        for _ in range(6):
            client.info()
        assert sessions.tally.refused["too many calls"] > 0
        impatient = EdgeClient(f"127.0.0.1:{port}", patience_s=0.0)
        guests._buckets.clear()
        guests._rate = 0.001
        impatient.info()
        with pytest.raises(GelatoError, match="calls a second"):
            impatient.info()
    finally:
        client.close()
        server.stop(0)


def test_an_edge_may_listen_at_a_file(pair, tmp_path):
    address = f"unix:{tmp_path}/edge"
    server, _ = serve(Sessions(pair.target, pair.tokenizer.fingerprint), address, model="tiny")
    client = EdgeClient(address)
    try:
        assert client.info().model == "tiny"
    finally:
        client.close()
        server.stop(0)
    for wrong in ("unix:", f"unix:{tmp_path}/no/such/folder/edge"):
        with pytest.raises(GelatoError, match=r"is not HOST:PORT|cannot be listened on"):
            serve(Sessions(pair.target, pair.tokenizer.fingerprint), wrong)


def test_prometheus_reads_what_was_done(pair):
    sessions = Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids)
    port = show(sessions, "127.0.0.1:0")
    sessions.open(opening(pair))
    list(sessions.stream(pb.VerifyRequest(session=NAME, round=1, uplink=bytes([7 << 2 | 2]))))
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["gelato_prompt_tokens_total"]) == 3
    assert float(values["gelato_generation_tokens_total"]) == 7
    assert float(values["gelato_spec_decode_num_drafts_total"]) == 2
    assert float(values["gelato_spec_decode_num_draft_tokens_total"]) == 0
    assert float(values["gelato_num_requests_running"]) == 1
    assert float(values["gelato_edge_seconds_total"]) > 0
    with pytest.raises(GelatoError, match="cannot be listened on"):
        show(sessions, f"127.0.0.1:{port}")
