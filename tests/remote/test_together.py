"""Sessions that are verified together: each one's text is what it is alone."""

import dataclasses
import threading
import time

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.control.banditspec import banditspec
from gelato_jax.decoding import programs
from gelato_jax.models import quantize
from gelato_jax.payloads import DraftIds
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.compute import PIECE
from gelato_jax.remote.device import stream, without_weights
from gelato_jax.remote.edge import serve
from gelato_jax.remote.sessions import Refused, Sessions
from gelato_jax.testing import tiny_pair

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9], [3, 2, 3, 8, 4, 6, 2, 6, 4]]


@pytest.fixture(scope="module", params=["float", "q8"])
def pair(request):
    """Weights in floats, and in blocks, where a window costs the tokens that are there."""
    pair = dataclasses.replace(tiny_pair(0.02, exits=()), eos_ids=(61,))
    return pair if request.param == "float" else dataclasses.replace(pair, target=quantize(pair.target, "q8"))


@pytest.fixture
def sessions(pair):
    return Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids)


def choices(payload):
    return {"controller": banditspec(), "length_exit": control.length_exits.none(), "payload": payload}


def settings(number, temperature):
    return gelato.DecodeSettings(
        max_draft_length=3, stream_length=6, max_new_tokens=24, temperature=temperature, seed=number, top_p=0.9
    )


@pytest.mark.parametrize(
    "payload", [payloads.candidates(2), payloads.seeded(), payloads.full()], ids=lambda p: p.scheme
)
def test_devices_at_once_get_the_texts_that_they_get_alone(payload, pair, sessions):
    """Other prompts, seeds and temperatures side by side, those that draft beside those that stream."""
    asked = [(PROMPTS[n % 4], settings(n, temperature)) for n, temperature in enumerate([0.0, 1.0, 0.7, 0.0, 1.0, 0.3])]
    wanted = [gelato.generate(pair, [prompt], settings=s, **choices(payload)) for prompt, s in asked]
    server, port = serve(sessions, "127.0.0.1:0")
    found = [None] * len(asked)

    def decode(number):
        client = EdgeClient(f"127.0.0.1:{port}")
        prompt, chosen = asked[number]
        watched = stream(without_weights(pair), prompt, client, settings=chosen, **choices(payload))
        for _ in watched:
            pass
        found[number] = watched.generation()
        client.close()

    try:
        for _ in range(6):  # programs for more rows are made beside the first texts
            threads = [threading.Thread(target=decode, args=(number,)) for number in range(len(asked))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(300)
            for alone, together in zip(wanted, found, strict=True):
                assert together.tokens == alone.tokens
                np.testing.assert_array_equal(together.totals.drafted, alone.totals.drafted)
                np.testing.assert_array_equal(together.totals.accepted, alone.totals.accepted)
            if sessions.tally.batches < sessions.tally.rounds:
                break
            for program in list(programs._BEGUN.values()):
                program.result()
    finally:
        server.stop(0)
    assert sessions.tally.batches < sessions.tally.rounds
    assert sum(int(text.totals.accepted[0]) for text in found) > 6


def opened(sessions, pair, name, **changes):
    fields = {
        "session": bytes([name]) * 16,
        "vocabulary": pair.tokenizer.fingerprint,
        "payload": pb.Payload(scheme="seeded"),
        "sampling": pb.Sampling(temperature=1.0, top_p=1.0, seed=name),
        "tokens": PROMPTS[name % 4],
        "prompt_length": len(PROMPTS[name % 4]),
        "max_new_tokens": 16,
        "max_draft_length": 3,
    }
    sessions.open(pb.OpenRequest(**{**fields, **changes}))
    return pb.VerifyRequest(session=bytes([name]) * 16, round=1, uplink=b"\0")


class Gate:
    """Keeps the first batch of a `Sessions` until the next callers have come."""

    def __init__(self, sessions):
        self.sessions, self.open, self.batches, self.kinds = sessions, threading.Event(), [], []
        self.run = sessions._turns._run
        sessions._turns._run = self._hold

    def _hold(self, works):
        self.batches.append(len(works))
        self.kinds.append(type(works[0]).__name__)
        assert self.open.wait(60)
        self.run(works)

    def answers(self, calls):
        """The answers to calls that meet, the first alone and the others behind it."""
        found = [None] * len(calls)

        def ask(number):
            try:
                found[number] = self.sessions.verify(calls[number])
            except Exception as error:
                found[number] = error

        threads = []
        for number in range(len(calls)):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            until = time.monotonic() + 1.0  # a repeat does not come so far
            while len(self.batches) + len(self.sessions._turns) <= number and time.monotonic() < until:
                time.sleep(0.001)
        self.open.set()
        for thread in threads:
            thread.join(60)
        return found


def make_programs(sessions, counts=(2, 4)):
    for session in sessions._sessions.values():
        for count in counts:
            sessions._computer.program(session.row, count).result()


def test_rounds_that_wait_are_one_pass(pair, sessions):
    calls = [opened(sessions, pair, name) for name in range(5)]
    make_programs(sessions)
    gate = Gate(sessions)
    answers = gate.answers(calls)
    assert gate.batches == [1, 4]
    assert (sessions.tally.rounds, sessions.tally.batches) == (5, 2)
    alone = Sessions(pair.target, pair.tokenizer.fingerprint)
    expected = [alone.verify(opened(alone, pair, name)) for name in range(5)]
    assert [answer.downlink for answer in answers] == [answer.downlink for answer in expected]


def test_drafts_do_not_wait_for_the_streams_of_others(pair, sessions):
    """A pass with drafts has one token of each stream, whose answer is whole all the same."""
    calls = [opened(sessions, pair, name) for name in range(3)]
    calls[1].uplink = bytes([4 << 2 | 2])  # a stream of four
    ids = DraftIds(known=None, vocab_size=pair.target.config.valid_outputs)
    drafts = payloads.seeded().decode_uplink(b"\0", 3, ids)
    drafts = dataclasses.replace(drafts, tokens=np.full((1, 3), 7, np.int32), length=np.ones(1, np.int32))
    calls[2].uplink = payloads.seeded().encode_uplink(drafts, 0, ids)
    make_programs(sessions)
    gate = Gate(sessions)
    answers = gate.answers(calls)
    assert gate.batches == [1, 2, 1]
    alone = Sessions(pair.target, pair.tokenizer.fingerprint)
    for name, (call, answer) in enumerate(zip(calls, answers, strict=True)):
        opened(alone, pair, name)
        assert answer.downlink == alone.verify(call).downlink


def test_schemes_with_other_numbers_do_not_meet(pair, sessions):
    calls = [
        opened(sessions, pair, name, payload=pb.Payload(scheme="candidates", number=number))
        for name, number in enumerate([1, 2, 1, 2, 1])
    ]
    make_programs(sessions, [2])
    gate = Gate(sessions)
    gate.answers(calls)
    assert gate.batches == [1, 2, 2]


def test_a_long_text_is_read_in_pieces_and_others_have_their_turns_between(pair, sessions):
    other = opened(sessions, pair, 1)
    gate = Gate(sessions)
    text = np.random.default_rng(0).integers(0, 60, 3 * PIECE - 5).tolist()
    reading = threading.Thread(
        target=opened, args=(sessions, pair, 2), kwargs={"tokens": text, "prompt_length": len(text)}
    )
    reading.start()
    while not gate.batches:
        time.sleep(0.001)
    answering = threading.Thread(target=sessions.verify, args=(other,))
    answering.start()
    while not len(sessions._turns):
        time.sleep(0.001)
    gate.open.set()
    for thread in (reading, answering):
        thread.join(60)
    assert gate.kinds == ["_Opening", "_Asked", "_Opening", "_Opening"]


def test_a_long_prompt_has_the_text_that_it_has_alone(pair, sessions):
    prompt = np.random.default_rng(1).integers(0, 60, 2 * PIECE + 9).tolist()
    server, port = serve(sessions, "127.0.0.1:0")
    client = EdgeClient(f"127.0.0.1:{port}")
    given = {"settings": settings(3, 1.0), **choices(payloads.candidates(2))}
    try:
        watched = stream(without_weights(pair), prompt, client, **given)
        for number, _ in enumerate(watched):
            if number == 2:  # it is told the text so far and reads it, in pieces too
                sessions._sessions.clear()
        assert client.traffic.reopened == 1
    finally:
        client.close()
        server.stop(0)
    assert watched.generation().tokens == gelato.generate(pair, [prompt], **given).tokens


def test_a_repeat_waits_for_the_answer_and_moves_nothing(pair, sessions):
    call = opened(sessions, pair, 1)
    gate = Gate(sessions)
    first, again = gate.answers([call, call])
    assert first == again
    assert sessions.tally.rounds == 1
    repeated = pb.VerifyRequest(session=call.session, round=2, uplink=b"\0")
    assert sessions.verify(repeated) == sessions.verify(repeated)


def test_a_session_that_is_opened_twice_goes_on(pair, sessions):
    """The second opening is a copy that came late: it is answered, and the session stays where it is."""
    call = opened(sessions, pair, 1)
    sessions.verify(call)
    opened(sessions, pair, 1)
    sessions.verify(pb.VerifyRequest(session=call.session, round=2, uplink=b"\0"))
    assert sessions.tally.rounds == 2


def test_a_late_copy_of_a_first_opening_does_not_reset_one_that_was_opened_again(pair, sessions):
    call = opened(sessions, pair, 1)
    sessions.verify(call)
    sessions._sessions.clear()  # forgotten; its device opens it again, with the text so far
    text = [*PROMPTS[1], 7, 9]
    opened(sessions, pair, 1, tokens=text, prompt_length=len(PROMPTS[1]), round=2)
    with pytest.raises(Refused, match="opened again at round 2"):
        opened(sessions, pair, 1)
    sessions.verify(pb.VerifyRequest(session=call.session, round=2, uplink=b"\0"))


def test_a_pass_that_fails_is_forgotten_with_its_sessions_and_no_others(pair, sessions, monkeypatch):
    calls = [opened(sessions, pair, name) for name in range(3)]
    make_programs(sessions, [2])
    gate = Gate(sessions)
    answer = Sessions._answer

    def fail(self, works):
        if len(works) == 2:
            raise MemoryError
        answer(self, works)

    monkeypatch.setattr(Sessions, "_answer", fail)
    first, *failed = gate.answers(calls)
    assert isinstance(first, pb.VerifyReply)
    assert [type(error) for error in failed] == [MemoryError, MemoryError]
    for call in calls[1:]:
        with pytest.raises(Refused, match="no such session"):
            sessions.verify(call)
    sessions.verify(pb.VerifyRequest(session=calls[0].session, round=2, uplink=b"\0"))
