"""Greedy text is the target's own, token by token, whatever is drafted, stopped or sent."""

import itertools

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, system

CONTROLLERS = ("ratio", "gelato", "static", "hf_schedule")
LENGTH_EXITS = ("none", "bucket", "priced", "adaedl", "svip", "confidence")
DEPTH_EXITS = ("fixed", "entropy", "priced")
DRAFT_SAMPLINGS = ("fixed", "entropy")
NOISES = (0.0, 0.03, 0.1)


@pytest.fixture(scope="module")
def pairs():
    return [gelato.testing.tiny_pair(noise) for noise in NOISES]


@pytest.fixture(scope="module")
def alone(pairs, prompts, settings):
    """The target's own text; it is the same in every pair."""
    return gelato.autoregressive(pairs[0], prompts, settings=settings)


def test_every_rule_is_tried():
    assert set(CONTROLLERS) == set(control.CONTROLLERS)
    assert set(LENGTH_EXITS) == set(control.LENGTH_EXITS)
    assert set(DEPTH_EXITS) == set(control.DEPTH_EXITS)
    assert set(DRAFT_SAMPLINGS) == set(control.DRAFT_SAMPLINGS)


@pytest.mark.parametrize("length_exit", LENGTH_EXITS)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_text_is_the_targets(controller, length_exit, pairs, alone, run, policy):
    for pair, depth_exit, draft_sampling in itertools.product(pairs, DEPTH_EXITS, DRAFT_SAMPLINGS):
        decoded = run(pair, policy(controller, length_exit, depth_exit, draft_sampling))
        assert decoded.tokens == alone, (depth_exit, draft_sampling)


def test_drafts_are_accepted_and_refused(pairs, run, policy):
    """The comparison above means something: acceptance spans its range, exits and lengths vary."""
    rates = []
    for pair in pairs:
        totals = run(pair, policy("static", "none", "entropy")).totals
        rates.append(totals.accepted.sum() / totals.drafted.sum())
        assert (totals.exits.sum(axis=0) > 0).sum() > 1
    assert rates[0] > rates[1] > rates[2]
    assert 0.2 < rates[1] < 0.8
    drafted = [run(pairs[1], policy("static", name)).totals for name in LENGTH_EXITS]
    per_round = {round(float(totals.drafted.sum() / totals.rounds.sum()), 3) for totals in drafted}
    assert len(per_round) > 3


@pytest.mark.parametrize(
    "payload",
    [
        system.payload.top_p(0.9),
        system.payload.top_k(5),
        system.payload.quantized(4),
        system.payload.scalar(),
        system.payload.full(),
        system.payload.seeded(),
    ],
    ids=lambda payload: payload.scheme,
)
def test_payloads_keep_the_text(payload, pairs, alone, prompts, settings):
    for pair in pairs:
        decoded = gelato.generate(
            pair, prompts, settings=settings, payload=payload, controller=control.hf_schedule(2)
        )
        assert decoded.tokens == alone


@pytest.mark.parametrize("size", [0, 1, 10])
def test_draft_sizes_keep_the_text(size, pairs, alone, prompts):
    settings = gelato.DecodeSettings(max_draft_length=size, max_new_tokens=24, prefill_chunk=16)
    for pair in pairs:
        decoded = gelato.generate(pair, prompts, settings=settings, controller=control.static(size))
        assert decoded.tokens == alone
        most = min(size, 22)  # the first token comes from the prefill, the last is never drafted
        assert np.all(decoded.totals.drafted <= most * decoded.totals.rounds)
        assert np.any(decoded.totals.drafted > 0) == (size > 0)
