"""Drafting on while an answer is under way: what is counted, and time sharing of two ways."""

import numpy as np
import pytest

from gelato_experiments.benchmarks.in_flight import Way, fastest, survivals, ways
from gelato_experiments.inputs import read_recording
from gelato_jax import system


def test_two_ways_by_turns_are_as_fast_as_their_joules_allow():
    slow, fast = Way(0, None, 1.0, 1.0, 0.1), Way(4, None, 3.0, 1.0, 1.5)
    assert fastest([slow, fast], 0.05) == 0.0
    assert fastest([slow, fast], 0.1) == pytest.approx(1.0)
    assert fastest([slow, fast], 0.5) == pytest.approx(3.0)
    # A third of the rounds are slow ones: (1 + 2 x 3) / 3 tokens for (0.1 + 2 x 1.5) / 3 joules.
    assert fastest([slow, fast], 3.1 / 7.0) == pytest.approx(7.0 / 3.0)


def test_drafting_on_saves_time_where_the_guess_is_right_and_costs_joules_where_it_is_not():
    recording, world = read_recording("short-greedy"), system.preset("orin-nano-15w", "5mhz-500m-60ms", "h100-7b")
    true, _ = survivals(recording)
    found = {(way.drafts, way.threshold): way for way in ways(recording, world)}
    plain, always, never = found[2, None], found[2, 0.0], found[2, 0.9]
    token_s, token_j = float(world.device.token_s), float(world.device.token_j)
    right = true[:, 3].mean()
    assert always.tokens == plain.tokens == pytest.approx(true[:, :3].sum(axis=1).mean())
    assert plain.seconds - always.seconds == pytest.approx(right * 2 * token_s)
    assert always.joules - plain.joules == pytest.approx(3 * token_j - right * 2 * token_j)
    assert plain.joules <= never.joules < always.joules
    assert np.all(np.diff(true, axis=1) <= 1e-6)
