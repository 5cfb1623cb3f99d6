"""Greedy text is the target's own, token by token, whatever is drafted and wherever it stops."""

import dataclasses
import itertools

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control
from gelato_jax.models import Model

CONTROLLERS = ("ratio", "gelato", "gelato_estimated", "static", "hf_schedule")
LENGTH_EXITS = ("none", "bucket", "priced", "adaedl", "svip", "confidence")
PEER_CONTROLLERS = ("flexspec", "ucb_specstop", "banditspec")
PEER_EXITS = ("sled", "edgellm_no_tree", "confidence_roc", "specdec_entropy")
RULES = [
    *itertools.product(CONTROLLERS, LENGTH_EXITS),
    *itertools.product(("ratio", *PEER_CONTROLLERS), PEER_EXITS),
]
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
    assert {controller for controller, _ in RULES} == set(control.CONTROLLERS)
    assert {length_exit for _, length_exit in RULES} == set(control.LENGTH_EXITS)
    assert set(DEPTH_EXITS) == set(control.DEPTH_EXITS)
    assert set(DRAFT_SAMPLINGS) == set(control.DRAFT_SAMPLINGS)


@pytest.mark.parametrize(("controller", "length_exit"), RULES)
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


@pytest.fixture(scope="module")
def small_alone(small_pairs, prompts, small_settings):
    return gelato.autoregressive(small_pairs[0], prompts, settings=small_settings)


@pytest.mark.parametrize("size", [0, 10])
def test_draft_sizes_keep_the_text(size, small_pairs, small_alone, prompts, small_settings):
    settings = dataclasses.replace(small_settings, max_draft_length=size)
    for pair in small_pairs:
        decoded = gelato.generate(pair, prompts, settings=settings, controller=control.static(size))
        assert decoded.tokens == small_alone
        assert np.all(decoded.totals.drafted <= size * decoded.totals.rounds)
        assert np.any(decoded.totals.drafted > 0) == (size > 0)


def test_models_padded_to_different_widths_decode_together(small_pairs, small_alone, prompts, small_settings):
    """A target with three rows of padding, which would win if they counted, and a draft without."""
    pair = small_pairs[1]
    config = dataclasses.replace(pair.target.config, vocab_size=64, known_vocab_size=61)
    tables = ("embed.embedding", "head.kernel")
    padded = {path: np.pad(pair.target.params[path], [(0, 3), (0, 0)], constant_values=50.0) for path in tables}
    target = Model(config=config, params={**pair.target.params, **padded})
    decoded = gelato.generate(
        dataclasses.replace(pair, target=target), prompts, settings=small_settings, controller=control.static(2)
    )
    assert decoded.tokens == small_alone
    assert decoded.totals.accepted.sum() > 0
