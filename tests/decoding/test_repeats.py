"""Repeats: what is found in a text, what it does to a distribution, and that decoding stays lossless with it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.decoding.repeats import find_repeat, weigh_repeat
from gelato_jax.testing import tiny_pair
from gelato_jax.training.trace import suggestions
from gelato_jax.types import RepeatOdds, RepeatOddsSet

LONGEST = 3
SETTINGS = gelato.DecodeSettings(max_draft_length=4, max_new_tokens=24, prefill_chunk=16)


def by_hand(text):
    """The token behind the longest, then latest repeat of the text's end, and how many tokens repeat."""
    best = (0, 0)
    for slot in range(1, len(text)):
        count = 0
        while count < min(LONGEST, slot) and text[slot - 1 - count] == text[len(text) - 1 - count]:
            count += 1
        best = max(best, (count, slot))
    return (text[best[1]], best[0]) if best[0] else (None, 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_the_longest_latest_repeat_is_found(text):
    expected, count = by_hand(text)
    rubbish = [1] * (24 - len(text))
    token, found = find_repeat(jnp.array([text + rubbish]), jnp.array([len(text)]), LONGEST)
    assert int(found[0]) == count
    assert count == 0 or int(token[0]) == expected
    tokens, counts = suggestions(np.array(text), LONGEST)
    assert counts[-1] == count
    assert count == 0 or tokens[-1] == expected


def odds(slope=0.5, offset=2.0, unseen=0.4, exits=1):
    shape = (exits, LONGEST)
    return RepeatOdds(slope=jnp.full(shape, slope), offset=jnp.full(shape, offset), unseen=jnp.full(LONGEST, unseen))


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


@pytest.mark.parametrize("vocabulary", [None, jnp.array([0, 2, 5, 6])])
def test_odds_become_what_they_should_and_the_others_keep_their_proportions(vocabulary):
    logits = np.random.default_rng(0).normal(size=(3, 4 if vocabulary is not None else 7)).astype(np.float32)
    token, count, exits = jnp.array([5, 5, 4]), jnp.array([1, 0, 2]), jnp.zeros(3, jnp.int32)
    weighed = np.asarray(weigh_repeat(jnp.asarray(logits), token, count, exits, vocabulary, odds()))
    column = 5 if vocabulary is None else 2
    before, after = softmax(logits[0]), softmax(weighed[0])
    log_odds = np.log(before[column] / (1 - before[column]))
    assert np.log(after[column] / (1 - after[column])) == pytest.approx(0.5 * log_odds + 2.0, abs=1e-4)
    others = [index for index in range(logits.shape[1]) if index != column]
    np.testing.assert_allclose(after[others] / after[others].sum(), before[others] / before[others].sum(), rtol=1e-4)
    np.testing.assert_allclose(weighed[1, : logits.shape[1]], logits[1])  # nothing repeats
    if vocabulary is not None:
        assert weighed.shape == (3, 5)
        assert np.isneginf(weighed[:2, 4]).all()
        assert softmax(weighed[2])[4] == pytest.approx(0.4, abs=1e-4)  # the head lacks token 4


@pytest.fixture(params=["all ids", "some ids"])
def pair(request, cut_vocabulary):
    """A tiny pair whose draft is sure of repeats; with some of the ids many a repeat is out of its head."""
    whole = tiny_pair()
    draft = whole.draft if request.param == "all ids" else cut_vocabulary(whole.draft, list(range(0, 60, 2)))
    exits = draft.work.shape[0]
    distributions = RepeatOddsSet(greedy=odds(0.3, 3.0, 0.9, exits), sampled=odds(0.7, 1.0, 0.3, exits))
    return dataclasses.replace(whole, draft=dataclasses.replace(draft, repeats=distributions))


@pytest.mark.parametrize("payload", ["candidates", "seeded", "quantized"])
def test_text_is_the_targets_own(pair, payload, prompts):
    made = {"candidates": payloads.candidates(4), "quantized": payloads.quantized(8)}
    chosen = made.get(payload, payloads.seeded())
    repetitive = [prompt * 2 for prompt in prompts]
    choices = {"payload": chosen, "controller": control.static(4)}
    expected = gelato.autoregressive(pair, repetitive, settings=SETTINGS, **choices)
    result = gelato.generate(pair, repetitive, settings=SETTINGS, length_exit=control.length_exits.none(), **choices)
    assert result.tokens == expected
    assert int(result.totals.drafted.sum()) > 20
