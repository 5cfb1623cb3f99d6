"""Bits of messages: against the published numbers, against plain Python, and against the encoded bytes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gelato_jax import payloads
from gelato_jax.payloads import DraftIds, Proposal, Vocabularies
from gelato_jax.payloads.bits import BitReader, BitWriter

V = 151_936
HEADER = 8
SIZES = Vocabularies.whole(V)
SCHEMES = {
    "full": payloads.full(),
    "top_p": payloads.top_p(0.9),
    "top_k": payloads.top_k(8),
    "quantized": payloads.quantized(16),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(4),
    "seeded": payloads.seeded(),
}


def test_every_scheme_is_tried():
    assert set(SCHEMES) == set(payloads.SCHEMES)
    assert all(payload.scheme == name for name, payload in SCHEMES.items())


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("seeded", 18), ("scalar", 50), ("candidates", 50), ("top_p", 18 + 50 * 8), ("top_k", 18 + 50 * 8)],
)
def test_bits_per_token_exactly(scheme, bits):
    assert float(SCHEMES[scheme].draft_bits(SIZES, jnp.float32(1), 8)) == bits


@pytest.mark.parametrize(("scheme", "megabits"), [("full", 4.86), ("quantized", 2.43)])
def test_bits_per_token_of_a_whole_distribution(scheme, megabits):
    assert float(SCHEMES[scheme].draft_bits(SIZES, jnp.float32(1), 8)) / 1e6 == pytest.approx(megabits, abs=0.005)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("drafted", [0, 1, 7])
@pytest.mark.parametrize("further", [False, True])
def test_uplink_in_plain_python(scheme, drafted, further):
    support, width = 3 * drafted + 1, 8_192
    named = 18 * further  # the further column's id
    per_token = {
        "full": 18 + named + 32 * width,
        "quantized": 18 + named + 16 * width,
        "scalar": 50,
        "candidates": 50,
        "seeded": 18,
    }
    bits = 18 * drafted + 50 * support if scheme in ("top_p", "top_k") else per_token[scheme] * drafted
    sizes = Vocabularies(target=V, draft=width, further=further)
    sent = SCHEMES[scheme].uplink_bits(sizes, drafted=drafted, support=support, pending=1, asked=1)
    assert float(sent) == HEADER + bits + 18 + HEADER


@pytest.mark.parametrize("scheme", SCHEMES)
def test_downlink_in_plain_python(scheme):
    rejected, asked = np.array([False, True, True]), np.array([0, 0, 1])
    sent = SCHEMES[scheme].downlink_bits(SIZES, rejected=jnp.asarray(rejected), asked=jnp.asarray(asked))
    pairs = 4 * 50
    expected = {
        "candidates": [HEADER + 18, HEADER + pairs, HEADER + pairs + 32 * V],
        "scalar": [HEADER + 18, HEADER + 32 * V, HEADER + 32 * V],
    }.get(scheme, [HEADER + 18] * 3)
    np.testing.assert_allclose(sent, expected, rtol=1e-7)


def test_candidates_save_three_orders_of_magnitude_when_one_is_accepted():
    rejected = jnp.array(True)
    assert float(payloads.scalar().downlink_bits(SIZES, rejected=rejected)) > 4.8e6
    assert float(payloads.candidates(16).downlink_bits(SIZES, rejected=rejected)) < 1_000


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_row_is_asked_for_with_the_chance_that_no_candidate_is_accepted(seed, count):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(5), size=2)
    accepted = np.sum(p * np.maximum(0, 1 - q / p))
    beta = np.minimum(p, q).sum()
    chance = payloads.candidates(count).asked_probability(jnp.float32(1.0), jnp.float32(beta))
    np.testing.assert_allclose(chance, (1 - accepted) ** count, atol=1e-5)


@pytest.mark.parametrize(("vocab_size", "bits"), [(1, 0), (2, 1), (49_152, 16), (65_536, 16), (65_537, 17), (V, 18)])
def test_id_bits(vocab_size, bits):
    assert Vocabularies.whole(vocab_size).id_bits == bits


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: payloads.top_p(1.5), "top_p"),
        (lambda: payloads.top_k(0), "top_k"),
        (lambda: payloads.quantized(1), "bits"),
        (lambda: payloads.candidates(-1), "candidates"),
        (lambda: payloads.candidates(2.5), "candidates"),
    ],
)
def test_refuses_numbers_out_of_range(build, name):
    with pytest.raises(ValueError, match=name):
        build()


@given(st.lists(st.tuples(st.integers(1, 33), st.integers(0, 2**33 - 1)), min_size=1, max_size=20))
def test_fields_come_back_bit_by_bit(fields):
    writer = BitWriter()
    numbers = [value % 2**width for width, value in fields]
    for (width, _), number in zip(fields, numbers, strict=True):
        writer.put(number, width)
    data = writer.bytes()
    assert writer.size == sum(width for width, _ in fields)
    assert len(data) == -(-writer.size // 8)
    reader = BitReader(data)
    assert [reader.one(width) for width, _ in fields] == numbers
    reader.end()


IDS = {
    "all ids": DraftIds(known=None, vocab_size=23),
    "some ids": DraftIds(known=jnp.asarray([0, 2, 3, 5, 8, 13, 21]), vocab_size=23),
    "a further column": DraftIds(known=jnp.asarray([0, 2, 3, 5, 8, 13, 21]), vocab_size=23, further=True),
}
G = 3


def proposal(payload, ids, seed):
    """Drafts of two rows as the decoder would make them: q shaped, tokens drawn from it."""
    rng = np.random.default_rng(seed)
    size = ids.sizes.draft
    weights = payload.shape(jnp.asarray(rng.normal(size=(2, G, size)) * 2, jnp.float32))
    repeated = jnp.asarray(rng.choice([1, 4, 6], size=(2, G)), jnp.int32)  # ids that no head here knows
    chances = np.exp(np.asarray(weights, np.float64))
    chances /= chances.sum(axis=-1, keepdims=True)
    column = np.asarray([[rng.choice(size, p=row) for row in rows] for rows in chances])
    tokens = np.take_along_axis(np.asarray(ids.names(repeated)), column[..., None], axis=2)[..., 0]
    log_prob = np.log(np.take_along_axis(chances, column[..., None], axis=2)[..., 0])
    return Proposal(
        tokens=jnp.asarray(tokens, jnp.int32),
        length=jnp.asarray([rng.integers(0, G + 1), G], jnp.int32),
        log_prob=jnp.asarray(log_prob, jnp.float32),
        log_weights=weights,
        repeated=repeated if ids.further else jnp.zeros_like(repeated),
    )


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("payload", SCHEMES.values(), ids=SCHEMES)
def test_an_uplink_comes_back_and_takes_the_bits_that_were_said(payload, ids):
    for seed in range(5):
        made = proposal(payload, ids, seed)
        pending = jnp.asarray([-1, 7], jnp.int32) if payload.draws_on_device else jnp.full(2, -1)
        uplink = payload.uplink(made, jnp.ones(2, bool), jnp.where(made.length > 0, 1, min(seed, G) + 1), pending)
        for row in range(2):
            data = payload.encode_uplink(uplink, row, ids)
            count = int(made.length[row])
            support = np.isfinite(made.log_weights[row, :count]).sum()
            bits = payload.uplink_bits(ids.sizes, drafted=count, support=support, pending=int(pending[row] >= 0))
            assert 0 <= 8 * len(data) - float(bits) < 8  # the last byte's padding
            again = payload.decode_uplink(data, G, ids)
            for field in dataclasses.fields(uplink):
                sent, got = getattr(uplink, field.name), getattr(again, field.name)
                assert (sent is None) == (got is None)
                if sent is None:
                    continue
                upto = slice(count)
                one, other = np.asarray(sent[row : row + 1]), np.asarray(got)
                one, other = (one, other) if np.ndim(sent) == 1 else (one[:, upto], other[:, upto])
                if field.name == "repeated" and payload.scheme in ("top_p", "top_k"):
                    named = np.isfinite(np.asarray(made.log_weights[row, :count, -1]))  # else it is not in the support
                    one, other = one[0][named], other[0][named]
                np.testing.assert_array_equal(other, one, err_msg=field.name)


@pytest.mark.parametrize("payload", SCHEMES.values(), ids=SCHEMES)
def test_a_damaged_uplink_is_refused(payload):
    ids = IDS["some ids"]
    made = dataclasses.replace(proposal(payload, ids, 1), length=jnp.asarray([G, G]))
    data = payload.encode_uplink(
        payload.uplink(made, jnp.ones(2, bool), jnp.ones(2, jnp.int32), jnp.full(2, -1)), 1, ids
    )
    with pytest.raises(ValueError, match="ends before"):
        payload.decode_uplink(data[:-1], G, ids)
    with pytest.raises(ValueError, match="goes on"):
        payload.decode_uplink(data + b"\0\0", G, ids)
    with pytest.raises(ValueError, match="3 drafts, the session allows 2"):
        payload.decode_uplink(data, 2, ids)


@pytest.mark.parametrize("payload", SCHEMES.values(), ids=SCHEMES)
def test_a_stream_is_asked_for_and_comes_back_in_the_bits_that_were_said(payload):
    ids, none = IDS["some ids"], jnp.zeros(1, jnp.int32)
    made = jax.tree.map(lambda leaf: leaf[:1], proposal(payload, ids, 1))
    made = dataclasses.replace(made, length=none)
    for wanted in range(1, G + 2):
        data = payload.encode_uplink(payload.uplink(made, none == 0, none + wanted, none - 1), 0, ids)
        assert len(data) == 1  # nothing but the header
        asked = payload.decode_uplink(data, G, ids)
        assert (int(asked.length[0]), int(asked.wanted[0])) == (0, wanted)

        tokens = (jnp.arange(G) + 3)[None]
        answer = dataclasses.replace(payload.blank_downlink(G, ids), streamed=tokens, num_streamed=none + wanted - 1)
        answer = dataclasses.replace(answer, next_token=none + 20)
        data = payload.encode_downlink(answer, 0, 0, ids)
        bits = payload.downlink_bits(ids.sizes, rejected=jnp.zeros(())) + payload.stream_bits(ids.sizes, wanted - 1)
        assert 0 <= 8 * len(data) - float(bits) < 8
        again = payload.decode_downlink(data, 0, G, ids)
        assert (int(again.accepted[0]), int(again.num_streamed[0]), int(again.next_token[0])) == (0, wanted - 1, 20)
        np.testing.assert_array_equal(again.streamed[0, : wanted - 1], tokens[0, : wanted - 1])


def test_messages_that_ask_for_or_give_too_much_are_refused():
    payload, ids = SCHEMES["seeded"], IDS["some ids"]
    stream, pending, fault = 2, 1, 1
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"a stream of {count} tokens"):
            payload.decode_uplink(bytes([count << 2 | stream]), G, ids)
    with pytest.raises(ValueError, match="ends before"):
        payload.decode_uplink(bytes([pending]), G, ids)
    for length, most in ((0, G), (2, 2)):
        with pytest.raises(ValueError, match=f"counts {most + 1} tokens of at most {most}"):
            payload.decode_downlink(bytes([(most + 1) << 2, 0]), length, G, ids)
    with pytest.raises(ValueError, match="flags 3"):
        payload.decode_downlink(bytes([2 | fault, 0]), 0, G, ids)
