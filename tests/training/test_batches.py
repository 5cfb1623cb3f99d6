"""Batches: reproducible, complete, and each position's target is the corpus's."""

from itertools import islice

import jax
import numpy as np
import pytest

from gelato_jax.errors import GelatoError
from gelato_jax.training.batches import Batches

PREFIX = np.array([5, 6, 7])
VOCABULARY = np.array([*range(0, 60, 2), 60])


def batches(corpus, **changes) -> Batches:
    return Batches(corpus[0], PREFIX, VOCABULARY, **{"tokens_per_batch": 1024, **changes})


def equal(left, right) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, left, right)))


def test_a_stream_is_reproducible_and_may_be_entered_anywhere(corpus):
    whole = list(islice(batches(corpus).shuffled(seed=3), 20))
    assert all(map(equal, whole[13:], batches(corpus).shuffled(seed=3, skip=13)))
    assert not equal(whole[0], next(batches(corpus).shuffled(seed=4)))


def test_an_epoch_sees_no_conversation_twice(corpus):
    stream = batches(corpus)
    count = stream.batches_per_epoch(seed=0)
    rows = [row.tobytes() for batch in islice(stream.shuffled(seed=0), count) for row in batch.tokens]
    assert len(set(rows)) == len(rows)
    assert len(rows) >= len(corpus[0]) - 7  # a last batch that falls short is left out


def test_once_sees_every_conversation(corpus):
    rows = [row for batch in batches(corpus).once() for row in batch.tokens if row.any()]
    assert len({row.tobytes() for row in rows}) == len(corpus[0])


def test_positions_learn_what_the_target_thought_of_the_next_token(corpus):
    by_text = {c.tokens.tobytes(): c for c in corpus[0]}
    batch = next(batches(corpus, user_weight=0.25).shuffled(seed=0))
    rows_of_ids = {token: row for row, token in enumerate(VOCABULARY.tolist())}
    for row in range(batch.tokens.shape[0]):
        text = batch.tokens[row]
        length = np.flatnonzero(text)[-1] + 1
        conversation = next(c for c in by_text.values() if np.array_equal(c.tokens, text[3:length]))
        weighty = batch.weight[row] > 0
        assert weighty.sum() == len(conversation.tokens)
        for place in np.flatnonzero(weighty):
            index = batch.learned[row, place] + 1 - len(PREFIX)
            assert batch.weight[row, place] == (1.0 if index >= conversation.answer_start else 0.25)
            in_greedy = index >= conversation.answer_start and conversation.temperature == 0
            assert batch.greedy[row, place] == in_greedy
            ids = conversation.top_ids[index].tolist()
            assert batch.top_index[row, place].tolist() == [rows_of_ids.get(i, len(VOCABULARY)) for i in ids]
            np.testing.assert_array_equal(batch.top_log_prob[row, place], conversation.top_log_probs[index])


def test_rows_are_shared_evenly(corpus):
    for multiple in (1, 3, 5, 16):
        batch = next(batches(corpus, multiple=multiple).shuffled(seed=0))
        assert batch.tokens.shape[0] % multiple == 0


def test_a_corpus_that_fills_no_batch_is_told(corpus):
    with pytest.raises(GelatoError, match="do not fill a batch of 1000000 tokens"):
        batches(corpus, tokens_per_batch=1_000_000).batches_per_epoch(seed=0)
