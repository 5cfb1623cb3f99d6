"""Calls that nobody would make: an edge refuses them or answers them, and one that does not is found out."""

import pytest

from gelato_experiments import fuzz
from gelato_jax import payloads
from gelato_jax.remote.sessions import Refused, Sessions
from gelato_jax.testing import tiny_pair

SCHEMES = (payloads.top_k(5), payloads.candidates(2))


@pytest.fixture(scope="module")
def pair():
    return tiny_pair(0.02, exits=())


def test_damaged_calls_harm_neither_the_edge_nor_a_device_beside_them(pair):
    outcome = fuzz.run(pair, inputs=1500, schemes=SCHEMES)
    assert outcome.faults == []
    assert outcome.texts > 0
    assert outcome.different == 0
    assert outcome.calls.total() == 1500
    assert min(outcome.refused[kind] for kind in ("invalid", "unknown", "mismatch")) > 0
    assert outcome.refused.total() < 1450  # some are answered


def test_an_edge_that_breaks_is_found_out(pair):
    class Fragile(Sessions):
        def _decode(self, data, terms):
            return terms.payload.decode_uplink(data, terms.shapes.max_draft_length, terms.ids)

    outcome = fuzz.run(pair, inputs=300, schemes=SCHEMES, sessions=Fragile(pair.target, pair.tokenizer.fingerprint))
    assert any("ends before its field" in fault for fault in outcome.faults)


def test_an_edge_that_lets_a_bad_call_move_others_is_found_out(pair):
    class Shaken(Sessions):
        def verify(self, call, owner=""):
            try:
                return super().verify(call, owner)
            except Refused as refused:
                if refused.kind == "invalid":
                    for session in list(self._sessions.values()):
                        session.round += 1
                raise

    sessions = Shaken(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids)
    outcome = fuzz.run(pair, inputs=1500, schemes=SCHEMES, sessions=sessions)
    assert outcome.different or any(fault.startswith("the device under") for fault in outcome.faults)
