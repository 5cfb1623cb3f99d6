"""What a target writes: frames, distributions, and what it thought of every token."""

import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.training import writing
from gelato_jax.training.corpus import read_corpus, write_corpus


def whole(frame, conversation) -> np.ndarray:
    return np.concatenate([np.asarray(frame.prefix), conversation.tokens]).astype(np.int32)


def ahead(log_probs, frame, conversation) -> np.ndarray:
    """The target's log-probabilities ahead of each token behind the prefix."""
    return log_probs(whole(frame, conversation))[len(frame.prefix) - 1 :]


def test_a_user_turn_ends_with_the_header(corpus, settings):
    for conversation in corpus[0]:
        start = conversation.answer_start
        assert conversation.tokens[start - 2 : start].tolist() == [8, 9]
        user = conversation.tokens[: start - 2]
        assert 60 not in user
        assert len(user) <= settings.longest_user + 2  # the longest opening


def test_answers_end_with_the_end_or_at_their_limit(corpus, settings):
    ends = 0
    for conversation in corpus[0]:
        answer = conversation.tokens[conversation.answer_start :].tolist()
        assert answer
        assert 60 not in answer[:-1]
        ends += answer[-1] == 60
        full = len(answer) == settings.longest_answer or 3 + len(conversation.tokens) == settings.slots
        assert answer[-1] == 60 or full
    assert 0 < ends < len(corpus[0])


def test_greedy_answers_are_the_targets_greedy_decoding(corpus, frame, log_probs):
    """Each token is the likeliest one behind those before it: by induction, greedy decoding."""
    answers = [c for c in corpus[0] if c.temperature == 0]
    assert len(answers) > 20
    for conversation in answers:
        best = ahead(log_probs, frame, conversation).argmax(axis=-1)
        start = conversation.answer_start
        np.testing.assert_array_equal(conversation.tokens[start:], best[start:])


def test_recorded_log_probabilities_are_a_log_softmax(corpus, frame, log_probs):
    for conversation in corpus[0][:40]:
        expected = ahead(log_probs, frame, conversation)
        named = np.take_along_axis(expected, conversation.top_ids.astype(np.int64), axis=-1)
        np.testing.assert_allclose(conversation.top_log_probs, named, rtol=2e-3, atol=1e-3)  # float16
        largest = np.sort(expected, axis=-1)[:, : -conversation.top_ids.shape[1] - 1 : -1]
        np.testing.assert_allclose(named, largest, rtol=1e-5, atol=1e-5)


def test_every_answer_temperature_occurs_and_is_kept(corpus, settings):
    assert {round(c.temperature, 3) for c in corpus[0]} == set(settings.temperatures)


def test_given_openings_are_kept(target, frame, settings, openings, tmp_path):
    always = type(settings)(**{**vars(settings), "opened": 1.0, "tokens": 600})
    write_corpus(target, frame, tmp_path, always, openings)
    starts = [c.tokens.tolist() for c in read_corpus(tmp_path)]
    assert all(tokens[:2] == [11, 12] or tokens[0] == 13 for tokens in starts)
    assert {tokens[0] for tokens in starts} == {11, 13}


def test_user_turns_follow_the_targets_distribution(target, frame, log_probs):
    """Chi-square of the first token of 4,096 user turns; z < 5 fails a sound writer once in 3e6."""
    rows = 4096
    state = writing.begin(target, frame, rows, 8, seed=3)
    tokens = np.zeros((rows, 8), np.int32)
    tokens[:, :3] = frame.prefix
    beginning = writing.Beginning(
        tokens=jnp.asarray(tokens),
        given=jnp.full(rows, 3),
        user_end=jnp.full(rows, 6),
        answer_limit=jnp.full(rows, 1),
        temperature=jnp.zeros(rows),
    )
    state = writing.advance(writing.restart(state, beginning, frame), target, frame, steps=1)
    first = np.asarray(state.tokens)[:, 3]
    chance = np.exp(log_probs(np.array([5, 6, 7, 0]))[-1])
    chance[8] += chance[60]  # an end becomes the header's first token
    chance[60] = 0.0
    common = chance * rows >= 5
    expected = np.append(chance[common], chance[~common].sum()) * rows
    counts = np.bincount(first, minlength=61)
    observed = np.append(counts[common], counts[~common].sum())
    keep = expected > 0
    chi = (np.square(observed - expected)[keep] / expected[keep]).sum()
    freedom = keep.sum() - 1
    assert freedom > 5
    assert (chi - freedom) / np.sqrt(2 * freedom) < 5


def test_a_model_without_a_header_goes_on_from_a_drawn_beginning(target, base_frame, settings, log_probs, tmp_path):
    write_corpus(target, base_frame, tmp_path, settings)
    conversations = list(read_corpus(tmp_path))
    for conversation in conversations:
        tokens, start = conversation.tokens.tolist(), conversation.answer_start
        assert 1 <= start <= settings.longest_user
        assert 60 not in tokens[:-1]  # a text that ends in its beginning has no answer
        if conversation.temperature == 0:
            best = ahead(log_probs, base_frame, conversation).argmax(axis=-1)
            assert tokens[start:] == best[start:].tolist()
    assert len({tuple(c.tokens[: c.answer_start]) for c in conversations}) > len(conversations) // 2


@pytest.mark.parametrize("vocab", [61, 300, 5000])
def test_likeliest_is_a_partial_sort(vocab):
    logits = np.random.default_rng(0).normal(size=(3, vocab)).astype(np.float32)
    values, ids = writing.likeliest(jnp.asarray(logits), 7)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=-1)[:, :7])
    np.testing.assert_array_equal(values, np.take_along_axis(logits, np.asarray(ids), axis=-1))
