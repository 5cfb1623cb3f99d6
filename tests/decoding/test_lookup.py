"""A draft without weights: what it proposes and believes, that text stays the target's, and that it costs nothing."""

import dataclasses
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads, system
from gelato_jax.control import acceptance_at, next_acceptance
from gelato_jax.decoding import encode_prompts, lookup, make_job, with_weights
from gelato_jax.decoding.ends import Device
from gelato_jax.decoding.programs import advance, start, unpack
from gelato_jax.errors import GelatoError

SCHEMES = {
    "full": payloads.full(),
    "top_p": payloads.top_p(0.8),
    "top_k": payloads.top_k(3),
    "quantized": payloads.quantized(5),
    "scalar": payloads.scalar(),
    "candidates": payloads.candidates(2),
    "seeded": payloads.seeded(),
}
CHANCES = (0.3, 0.5, 0.9)
G = 4
REPEATING = [[7, 8, 9, 7, 8, 9, 7, 8], [3, 1, 4, 1, 5, 9, 2, 6], [5] * 6]


def settings(**changes):
    return gelato.DecodeSettings(**{"max_draft_length": G, "max_new_tokens": 24, "prefill_chunk": 16, **changes})


@pytest.fixture(scope="module")
def pair(small_pairs):
    return dataclasses.replace(small_pairs[1], draft=lookup(CHANCES, CHANCES))


def _state(pair, prompts, **choices):
    job = make_job(pair, settings=settings(), controller=control.static(G), **choices)
    return job, start(job, **encode_prompts(pair, prompts, settings()), shapes=settings().shapes)


def _by_hand(text):
    """The drafts behind a text, one after another, and what is believed of each."""
    drafts, chances = [], []
    for _ in range(G):
        known = text + drafts
        count, slot = max(
            (next((m for m in range(3, 0, -1) if m <= s and known[s - m : s] == known[-m:]), 0), s)
            for s in range(1, len(known))
        )
        if not count:
            break
        drafts.append(known[slot])
        chances.append(CHANCES[count - 1])
    return drafts, chances


def test_drafts_go_on_as_the_text_did(pair):
    job, state = _state(pair, REPEATING, length_exit=control.length_exits.none())
    device = Device(job, settings().shapes)
    outlook = np.asarray(device.outlook(state.device))
    texts = [
        row[:end].tolist()
        for row, end in zip(np.asarray(state.device.tokens), np.asarray(state.device.length), strict=True)
    ]
    _, (seen, *_), _ = advance(state, job, shapes=settings().shapes)
    drafted = unpack(np.asarray(seen), exits=1, max_draft_length=G).drafted
    expected = [_by_hand(text) for text in texts]
    assert drafted.tolist() == [len(drafts) for drafts, _ in expected]
    for row, (drafts, chances) in enumerate(expected):
        np.testing.assert_allclose(outlook[row], chances if drafts else np.zeros(G), rtol=1e-6)
    assert any(drafts for drafts, _ in expected)
    assert any(len(set(chances)) > 1 for _, chances in expected)


@pytest.mark.parametrize("payload", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("controller", [control.static(3), control.ratio()], ids=["static", "ratio"])
def test_greedy_text_is_the_targets_and_drafting_costs_nothing(payload, controller, pair):
    chosen = settings(stream_length=3)
    alone = gelato.autoregressive(pair, REPEATING, settings=chosen)
    world = system.preset("orin-nano-15w", "5mhz-500m-60ms", "h100-7b")
    found = gelato.generate(pair, REPEATING, settings=chosen, payload=payload, controller=controller, system=world)
    totals = found.totals
    assert found.tokens == alone
    assert totals.accepted.sum() > 10
    assert totals.passes.sum() < totals.tokens.sum() - 10
    assert totals.caught_up.sum() == 0
    np.testing.assert_array_equal(totals.work.value, 0.0)
    undrafted = gelato.generate(
        pair, REPEATING, settings=chosen, payload=payload, controller=control.static(0), system=world
    )
    np.testing.assert_array_equal(totals.prompt_j.value, undrafted.totals.prompt_j.value)


def test_seeded_text_is_the_targets_own_under_the_same_noise(pair):
    chosen = settings(temperature=1.0, seed=4)
    choices = {"settings": chosen, "payload": payloads.seeded()}
    alone = gelato.autoregressive(pair, REPEATING, **choices)
    found = gelato.generate(pair, REPEATING, controller=control.static(3), **choices)
    assert found.tokens == alone
    assert found.totals.drafted.sum() > 5


def test_a_round_is_planned_by_what_repeats_in_it(pair):
    """Where three tokens repeat the plan drafts, where one does it does not: at a price between their chances."""
    world = system.local(draft_token_s=0.0, window_s={1: 1.0, 2: 1.4, 3: 1.8, 4: 2.2, 5: 2.6}, padded=False)
    sure = dataclasses.replace(pair, draft=lookup((0.05, 0.1, 0.95), (0.05, 0.1, 0.95)))
    long, short = [1, 2, 3, 9, 1, 2, 3], [1, 2, 3, 9, 7, 5, 3]
    for prompt, drafts in ((long, True), (short, False)):
        job = make_job(sure, settings=settings(), controller=control.ratio(probe_length=0), system=world)
        batch = encode_prompts(sure, [prompt], settings())
        state = start(job, **batch, shapes=settings().shapes)
        kept = jnp.asarray(batch["prompt_length"])  # as if the prompt were the text: its first token is not known here
        state = dataclasses.replace(state, device=dataclasses.replace(state.device, length=kept))
        _, (seen, *_), _ = advance(state, job, shapes=settings().shapes)
        assert (unpack(np.asarray(seen), exits=1, max_draft_length=G).drafted[0] > 0) == drafts


def test_one_token_is_asked_for_where_drafts_were_wanted_and_none_found(pair):
    """A controller that drafts wants to look again behind the next token; one that does not lets the edge go on."""
    for controller, passes in ((control.static(2), 1), (control.static(0), 3)):
        job = make_job(pair, settings=settings(stream_length=3), controller=controller)
        prompt = [3, 1, 4, 15, 9, 2]
        state = start(job, **encode_prompts(pair, [prompt], settings()), shapes=settings().shapes)
        assert int(state.device.tokens[0, len(prompt)]) not in prompt, "take another prompt"
        _, (seen, *_), _ = advance(state, job, shapes=settings().shapes)
        assert unpack(np.asarray(seen), exits=1, max_draft_length=G).passes[0] == passes


def test_rules_that_ask_for_entropies_read_the_chance_off_them():
    draft = lookup(CHANCES, CHANCES)
    calibration = draft.calibration.greedy
    zero = jnp.zeros((), jnp.int32)
    for chance, after in [*pairwise(CHANCES), (CHANCES[-1], CHANCES[-1])]:
        nats = -jnp.log(jnp.float32(chance))
        np.testing.assert_allclose(acceptance_at(calibration, nats, zero, 1.0), chance, rtol=1e-5)
        np.testing.assert_allclose(next_acceptance(calibration, nats, 1.0), after, rtol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"greedy": ()},
        {"greedy": (0.5, 0.4)},
        {"sampled": (0.0, 0.4)},
        {"sampled": (0.2, 1.0)},
        {"greedy": (0.2, 0.4), "sampled": (0.1,)},
        {"shortest": 0},
        {"shortest": 9},
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused(bad):
    with pytest.raises(GelatoError, match=r"greedy|sampled|shortest"):
        lookup(**bad)


def test_what_needs_weights_says_so(pair):
    with pytest.raises(GelatoError, match="draft lookup has no weights"):
        with_weights(pair.draft)
