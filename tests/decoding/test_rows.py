"""Random numbers belong to a row: its text depends on no batch mate, and `seeded` text on no draft."""

import dataclasses

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads


@pytest.fixture(scope="module")
def sampled(small_settings):
    return dataclasses.replace(small_settings, temperature=1.0, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def alone(small_pairs, prompts, sampled):
    """Sampled text of the target under the seeded payload's noise."""
    return gelato.autoregressive(small_pairs[0], prompts, settings=sampled, payload=payloads.seeded())


@pytest.mark.parametrize("controller", ["ratio", "gelato", "static", "hf_schedule"])
def test_seeded_text_is_the_targets_own(controller, small_pairs, alone, prompts, sampled, policy):
    rules = policy(controller, "bucket", "entropy", "entropy")
    accepted = []
    for pair in small_pairs:
        decoded = gelato.generate(pair, prompts, settings=sampled, payload=payloads.seeded(), **rules)
        assert decoded.tokens == alone
        accepted.append(decoded.totals.accepted.sum())
    assert min(accepted) > 0


def test_seeded_text_ignores_the_drafts_vocabulary(small_pairs, alone, prompts, sampled, cut_vocabulary, policy):
    known = np.setdiff1d(np.arange(61), np.arange(3, 40, 4))
    for controller in ("ratio", "static"):
        pair = dataclasses.replace(small_pairs[1], draft=cut_vocabulary(small_pairs[1].draft, known))
        rules = policy(controller, "none", "entropy")
        decoded = gelato.generate(pair, prompts, settings=sampled, payload=payloads.seeded(), **rules)
        assert decoded.tokens == alone
        assert decoded.totals.accepted.sum() > 0


def test_text_depends_on_no_batch_mate(prompts, settings, run, policy):
    pair = gelato.testing.tiny_pair(0.03)
    settings = dataclasses.replace(settings, temperature=1.0, seed=5)
    rules = policy("ratio", "bucket", "entropy", "entropy")
    rng = np.random.default_rng(1)
    first = run(pair, rules, settings)
    for row in range(len(prompts)):
        others = [rng.integers(0, 60, size).tolist() for size in rng.integers(1, 24, len(prompts))]
        others[row] = prompts[row]
        again = run(pair, rules, settings, others)
        assert again.tokens[row] == first.tokens[row]
        assert again.totals.rounds[row] == first.totals.rounds[row]
        np.testing.assert_allclose(again.totals.energy_j.high[row], first.totals.energy_j.high[row], rtol=1e-6)


def test_rows_with_one_prompt_differ(settings, run, policy):
    settings = dataclasses.replace(settings, temperature=1.0)
    decoded = run(gelato.testing.tiny_pair(0.03), policy(), settings, [[7, 8, 9]] * 4)
    assert len({tuple(row) for row in decoded.tokens}) == 4


def test_a_seed_repeats_and_another_differs(prompts, settings, run, policy):
    pair = gelato.testing.tiny_pair(0.03)
    texts = [
        run(pair, policy(), dataclasses.replace(settings, temperature=1.0, seed=seed)).tokens for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_controllers_numbers_do_not_change_greedy_text(prompts, run, policy):
    pair = gelato.testing.tiny_pair(0.03)
    texts = [run(pair, policy(static=control.static(length))).tokens for length in (0, 1, 4)]
    assert texts[0] == texts[1] == texts[2]
