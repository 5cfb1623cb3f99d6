"""How often text goes on as before: counted by hand on texts of a few tokens."""

from pathlib import Path

import numpy as np

from gelato_experiments.lookup_chances import LONGEST, count
from gelato_jax.decoding.lookup import GREEDY_CHANCES, SAMPLED_CHANCES
from gelato_jax.training.corpus import Conversation
from gelato_jax.training.ids import read_ids

CORPUS = Path(__file__).parents[2] / "experiments" / "corpora" / "smollm2-135m-more.npz"


def conversation(tokens, start):
    none = np.zeros((len(tokens), 0))
    return Conversation(
        tokens=np.array(tokens, np.uint16), answer_start=start, temperature=0.0, top_ids=none, top_log_probs=none
    )


def test_what_goes_on_as_before_is_counted_by_what_repeats():
    # An answer 2 3 1 2 3 9 behind a prompt 1: the token behind its first is drafted first, and 1, 2, 3 come again.
    seen, right = count([conversation([1, 2, 3, 1, 2, 3, 9], 1)])
    assert seen.tolist() == [2, 1, 1, 1] + [0] * (LONGEST - 3)  # behind 2 and 3 nothing repeats; 1; 1 2; 1 2 3
    assert right.tolist() == [0, 1, 1, 0] + [0] * (LONGEST - 3)


def test_the_chances_that_ship_are_those_of_the_corpus():
    rows = read_ids(CORPUS)
    for temperature, stated in ((0.0, GREEDY_CHANCES), (1.0, SAMPLED_CHANCES)):
        seen, right = count([row for row in rows if row.temperature == temperature][:600])
        few = 4 / np.sqrt(np.maximum(seen[1:], 1))  # more than four standard deviations of any share
        assert np.all(np.abs(right[1:] / np.maximum(seen[1:], 1) - stated) < np.maximum(few, 0.02))
