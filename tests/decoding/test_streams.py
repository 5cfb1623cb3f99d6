"""Rounds without drafts that ask for several tokens: the text of rounds one by one, in fewer messages."""

import dataclasses
from typing import get_type_hints

import jax
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads, system
from gelato_jax.cli.options import ControlOptions
from gelato_jax.control.banditspec import banditspec
from gelato_jax.decoding import LOCAL_STREAM, LONGEST_STREAM, encode_prompts, make_job
from gelato_jax.decoding.plan import plan
from gelato_jax.decoding.programs import advance, start, unpack
from gelato_jax.errors import GelatoError

SCHEMES = {
    "full": payloads.full(),
    "top_k": payloads.top_k(5),
    "quantized": payloads.quantized(5),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(2),
    "seeded": payloads.seeded(),
}
G = 4
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def pair(small_pairs):
    return small_pairs[1]


def settings(**changes):
    given = {"max_draft_length": G, "max_new_tokens": NEW_TOKENS, "prefill_chunk": 16, "seed": 3, **changes}
    return gelato.DecodeSettings(**given)


SOMETIMES = {"controller": banditspec(), "length_exit": control.length_exits.none()}
"""Drafts in some rounds and not in others: every length has its turn."""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("payload", SCHEMES.values(), ids=SCHEMES)
def test_a_stream_is_the_text_of_rounds_one_by_one(payload, temperature, pair, prompts):
    choices = {"controller": control.static(0), "payload": payload}
    one = gelato.generate(pair, prompts, settings=settings(temperature=temperature), **choices)
    for length in (2, 3, G + 1, 2 * (G + 1), LONGEST_STREAM):
        chosen = settings(temperature=temperature, stream_length=length)
        many = gelato.generate(pair, prompts, settings=chosen, **choices)
        assert many.tokens == one.tokens
        np.testing.assert_array_equal(many.totals.passes, one.totals.passes)
        np.testing.assert_array_equal(many.totals.rounds, -(-one.totals.rounds // min(length, G + 1)))
    assert one.totals.passes.sum() == one.totals.tokens.sum() > NEW_TOKENS


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_streams_among_drafts_leave_the_text_alone(temperature, pair, prompts):
    chosen = settings(temperature=temperature, stream_length=G + 3)
    payload = payloads.seeded()
    alone = gelato.autoregressive(pair, prompts, settings=chosen, payload=payload)
    found = gelato.generate(pair, prompts, settings=chosen, payload=payload, **SOMETIMES)
    assert found.tokens == alone
    assert found.totals.drafted.sum() > 5
    assert found.totals.passes.sum() > found.totals.rounds.sum() + 5


@pytest.mark.parametrize("payload", [payloads.scalar(), payloads.candidates(2)], ids=["scalar", "candidates"])
def test_both_ends_count_passes_alike(payload, pair, prompts):
    """Their random numbers are told apart by that count: a draw must not meet another's uniforms."""
    chosen = settings(temperature=1.0, stream_length=3)
    job = make_job(pair, settings=chosen, payload=payload, **SOMETIMES)
    state = start(job, **encode_prompts(pair, prompts, chosen), shapes=chosen.shapes)
    kinds = set()
    while not np.asarray(state.device.done).all():
        state, (packed, *_), _ = advance(state, job, shapes=chosen.shapes)
        seen = unpack(np.asarray(packed), exits=2, max_draft_length=G)
        going = ~np.asarray(state.device.done)
        np.testing.assert_array_equal(np.asarray(state.edge.round)[going], np.asarray(state.row.round)[going])
        np.testing.assert_array_equal(np.asarray(state.edge.length)[going], np.asarray(state.device.length)[going])
        kinds |= {(bool(drafted), bool(passes > 1)) for drafted, passes in zip(seen.drafted, seen.passes, strict=True)}
    assert {(True, False), (False, True)} <= kinds
    assert (True, True) not in kinds


def test_a_stream_ends_behind_an_end_of_sequence_and_at_the_limit(pair, prompts):
    chosen = settings(stream_length=G + 1, max_new_tokens=8)
    free = dataclasses.replace(pair, eos_ids=(61,))
    (text,) = gelato.autoregressive(free, prompts[1:2], settings=chosen)
    ending = dataclasses.replace(pair, eos_ids=(text[3],))
    found = gelato.generate(ending, prompts[1:2], settings=chosen, controller=control.static(0))
    until = text.index(text[3]) + 1
    assert found.tokens == [text[:until]]
    assert found.totals.passes[0] == until - 1
    whole = gelato.generate(free, prompts[1:2], settings=chosen, controller=control.static(0))
    assert whole.tokens == [text]
    assert whole.totals.passes[0] == 7
    assert whole.totals.rounds[0] == 2


def test_a_stream_costs_one_delay_and_a_step_for_each_token(pair, prompts):
    world = system.preset(link="5mhz-500m-140ms")
    step_s, delay_s = float(world.edge.verify_s(np.int32(1))), float(world.link.rtt_s)
    for length in (1, 2, G + 1, G + 3):
        chosen = settings(stream_length=length)
        job = make_job(pair, settings=chosen, system=world, controller=control.static(0))
        state = start(job, **encode_prompts(pair, prompts[1:2], chosen), shapes=chosen.shapes)
        row = jax.tree.map(lambda leaf: leaf[0], state.row)
        channel = world.link.observe(row.link)
        table = world.cost_table(
            channel,
            job.policy.payload,
            job.draft_ids.sizes,
            work=1.0,
            acceptance=job.policy.controller.forecast(row.session.controller, G),
            support=1.0,
            stream_length=length,
        )
        assert int(plan(row, channel, setup=job.setup, max_draft_length=G).stream_length) == length
        ids, whole_s = job.draft_ids.sizes.id_bits, 0.0
        for tokens, sends in ((min(length, G + 1), True), (length - G - 1, False)):
            if tokens > 0:
                state, (packed, *_), _ = advance(state, job, shapes=chosen.shapes)
                seen = unpack(np.asarray(packed), exits=2, max_draft_length=G)
                assert (seen.tokens[0], seen.passes[0], seen.drafted[0]) == (tokens, tokens, 0)
                np.testing.assert_allclose(seen.cost.edge_s[0], tokens * step_s, rtol=1e-6)
                np.testing.assert_allclose(seen.cost.propagation_s[0], sends * delay_s, rtol=1e-6)
                assert seen.uplink_bits[0] == 8 * sends
                assert seen.downlink_bits[0] == 8 + tokens * ids
                whole_s += seen.time_s[0]
        np.testing.assert_allclose(whole_s, float(table.time_s[0]) - float(table.catch_up_s), rtol=0.1)


def test_an_edge_that_streams_is_drafted_for_only_where_that_is_faster(pair, prompts):
    """A device that knows the price of a stream leaves its draft alone over a long delay, and not without streams."""
    world = system.preset(link="5mhz-500m-140ms")
    for length, drafts in ((1, True), (G + 1, False)):
        chosen = settings(stream_length=length)
        found = gelato.generate(pair, prompts, settings=chosen, system=world, controller=control.ratio())
        assert (found.totals.drafted.sum() > 10) == drafts


def test_the_command_line_says_the_same_numbers():
    """It is imported without JAX, and so has them written again."""
    *_, ranged, with_system = get_type_hints(ControlOptions, include_extras=True)["stream_length"].__metadata__
    assert (ranged.low, ranged.high) == (1, LONGEST_STREAM)
    assert with_system.defaults == {"modelled": gelato.DecodeSettings().stream_length, "local": LOCAL_STREAM}


@pytest.mark.parametrize("length", [0, LONGEST_STREAM + 1, 2.5])
def test_a_message_cannot_ask_for_more_than_it_can_say(length):
    with pytest.raises(GelatoError, match=f"stream_length is {length}, must be"):
        settings(stream_length=length)
