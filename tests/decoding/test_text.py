"""Ends and limits of a text, its bill, and what is refused."""

import dataclasses

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control
from gelato_jax.decoding import encode_prompts


@pytest.fixture(scope="module")
def endless():
    """A pair that no id ends."""
    return dataclasses.replace(gelato.testing.tiny_pair(0.03), eos_ids=(61,))


def test_text_ends_at_the_first_end_of_sequence(endless, run, policy):
    texts = run(endless, policy()).tokens
    assert [len(text) for text in texts] == [24] * 4
    for end in sorted({token for text in texts for token in text}):
        pair = dataclasses.replace(endless, eos_ids=(end,))
        expected = [text[: text.index(end) + 1] if end in text else text for text in texts]
        assert run(pair, policy("hf_schedule", "priced")).tokens == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_text_ends_at_the_limit(limit, endless, settings, run, policy):
    long = run(endless, policy())
    settings = dataclasses.replace(settings, max_new_tokens=limit)
    short = run(endless, policy(), settings)
    assert short.tokens == [text[:limit] for text in long.tokens]
    np.testing.assert_array_equal(short.totals.tokens, limit - 1)
    assert short.totals.rounds.any() == (limit > 1)


@pytest.mark.parametrize("power_budget_w", [1.1, 1.5, 1.9])
def test_energy_stays_on_the_path(power_budget_w, endless, settings, run, policy, exact):
    """Every row: sum(E) <= Pbar sum(T) + Q_end - Q_start, to 1e-6 of sum(E); also across requests."""
    rules = policy("ratio", "priced", ratio=control.ratio(power_budget_w=power_budget_w, penalty_weight=0.5))
    session, start_j = None, np.zeros(4)
    for seed in range(5):
        sampled = dataclasses.replace(settings, temperature=1.0, seed=seed)
        decoded = run(endless, {**rules, "session": session}, sampled)
        energy_j = exact(decoded.totals.energy_j) + exact(decoded.totals.prompt_j)
        time_s = exact(decoded.totals.time_s) + exact(decoded.totals.prompt_s)
        allowed = power_budget_w * time_s + decoded.final_queue_j - start_j
        assert (energy_j <= allowed + 1e-6 * energy_j).all()
        session, start_j = decoded.session, decoded.final_queue_j
    assert (start_j > 0).any()


def test_energy_of_rounds_stays_on_the_path(endless, settings, run, policy, exact):
    """The paper's form, a budget a round: sum(E) <= K Ebar + Q_end - Q_start."""
    budget_j = 0.2
    for seed in range(5):
        sampled = dataclasses.replace(settings, temperature=1.0, seed=seed)
        decoded = run(endless, policy("gelato", gelato=control.gelato(energy_budget_j=budget_j)), sampled)
        energy_j = exact(decoded.totals.energy_j) + exact(decoded.totals.prompt_j)
        allowed = budget_j * decoded.totals.rounds + decoded.final_queue_j
        assert (energy_j <= allowed + 1e-6 * energy_j).all()


def test_totals_are_consistent(endless, run, policy):
    for names in (("ratio", "bucket", "entropy"), ("static", "none", "priced"), ("hf_schedule", "svip", "fixed")):
        decoded = run(endless, policy(*names))
        totals = decoded.totals
        np.testing.assert_array_equal(totals.tokens + 1, [len(text) for text in decoded.tokens])
        assert (totals.accepted <= totals.drafted).all()
        # A round gives its accepted tokens and one more; an end or limit may cut the last round.
        assert (totals.tokens <= totals.accepted + totals.rounds).all()
        assert (totals.tokens > totals.accepted + totals.rounds - 5).all()
        np.testing.assert_array_equal(totals.exits.sum(axis=1), totals.drafted)
        assert (totals.work.high <= totals.drafted * (1 + 1e-6)).all()
        assert (totals.prompt_s.high > 0).all()
        assert (totals.uplink_bits.high > 0).all()


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        ([], {}, "no prompt"),
        ([[1], []], {}, "prompt 1 has no tokens"),
        ([[1] * 4090], {"max_new_tokens": 10}, "prompt 0 has 4090 tokens.*4096 positions leave room for 4086"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([[1]], {"max_draft_length": 40}, "max_draft_length is 40"),
        ([[1]], {"max_draft_length": -1}, "max_draft_length is -1"),
        ([[1]], {"prefill_chunk": 0}, "prefill_chunk is 0"),
        ([[1]], {"temperature": -0.5}, "temperature is -0.5"),
        ([[1]], {"top_p": 1.5}, "top_p is 1.5"),
        ([[1]], {"top_p": 0.0}, "top_p is 0.0"),
        ([[1]], {"top_k": -2}, "top_k is -2"),
    ],
)
def test_faults_are_refused(prompts, changes, message, endless):
    with pytest.raises(ValueError, match=message):
        gelato.generate(endless, prompts, settings=gelato.DecodeSettings(**changes))


def test_texts_go_through_the_tokenizer(endless, settings):
    by_text = encode_prompts(endless, ["4 5 6", "7"], settings)
    by_ids = encode_prompts(endless, [[4, 5, 6], [7]], settings)
    for name in by_ids:
        np.testing.assert_array_equal(by_text[name], by_ids[name])


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 33])
def test_a_buffer_holds_the_widest_window_behind_the_longest_text(length, endless):
    settings = gelato.DecodeSettings(max_draft_length=4, max_new_tokens=30, prefill_chunk=16)
    size = encode_prompts(endless, [[1] * length], settings)["tokens"].shape[1]
    assert size >= length + 30 + 5
    assert size % 16 == 0
    assert size & (size - 1) == 0
