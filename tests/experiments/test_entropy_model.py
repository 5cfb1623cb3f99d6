"""The Markov model of entropies that oracles use: fitted, and its rounds of fixed length, by hand."""

import numpy as np
import pytest

from gelato_experiments.oracles import EntropyModel, RoundCosts, fit, fixed_length_tables


def test_fit_finds_the_model_that_drew_the_rollouts():
    model = EntropyModel(
        initial=[0.2, 0.5, 0.3],
        transition=[[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.6]],
        acceptance=[0.95, 0.6, 0.2],
    )
    rng = np.random.default_rng(0)
    rollouts, drafts = 50_000, 4
    kind = np.zeros((rollouts, drafts), int)
    chances = np.broadcast_to(model.initial, (rollouts, 3))
    for i in range(drafts):
        kind[:, i] = (rng.random(rollouts)[:, None] >= chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
        chances = model.transition[kind[:, i]]
    entropy = np.array([0.1, 1.0, 3.0])[kind]
    accepted = rng.random(kind.shape) < model.acceptance[kind]
    by_chance = fit(entropy, model.acceptance[kind], [0.5, 2.0])
    np.testing.assert_allclose(by_chance.acceptance, model.acceptance, rtol=1e-12)
    by_mask = fit(entropy, accepted, [0.5, 2.0])
    # At most 3 standard errors of the rarest cell are 0.01; each is met some 2e4 times or more.
    for found in (by_chance, by_mask):
        np.testing.assert_allclose(found.initial, model.initial, atol=0.02)
        np.testing.assert_allclose(found.transition, model.transition, atol=0.02)
        np.testing.assert_allclose(found.acceptance, model.acceptance, atol=0.02)


def test_fit_tells_the_track_from_what_is_off_it():
    # Class 1 is accepted as a first token; behind a rejection it would not be, which must not count.
    entropy = [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    chance = [[0.0, 0.0], [1.0, 0.5], [1.0, 1.0]]
    model = fit(entropy, chance, [0.5])
    np.testing.assert_allclose(model.initial, [2 / 3, 1 / 3])
    np.testing.assert_allclose(model.acceptance, [(0.0 + 1.0 + 1.0 + 0.5) / 4, 1.0])
    np.testing.assert_allclose(model.transition, [[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(model.off_transition, [[0.0, 1.0], [0.0, 1.0]])  # class 1 was never left off the track
    by_place = fit(entropy, chance, [0.5], by_place=True)
    np.testing.assert_allclose(by_place.acceptance, [[0.5, 1.0], [0.75, 0.75]])  # class 1 never came second
    np.testing.assert_allclose(by_place.survival(2), [1.0, 2 / 3, 0.5])
    weighed = fit(entropy, chance, [0.5], weight=[0.0, 2.0, 2.0])
    np.testing.assert_allclose(weighed.initial, [0.5, 0.5])
    # A class that no token fell into: the overall mean, and all tokens' classes.
    padded = fit(entropy, chance, [0.5, 2.0])
    assert padded.acceptance[2] == pytest.approx(3.5 / 5)
    np.testing.assert_allclose(padded.transition[2], [1.0, 0.0, 0.0])


def test_by_place_fixed_lengths_are_the_rollouts_own():
    """Acceptance that rises along a streak: pooled, the model promises too much of the first tokens."""
    rng = np.random.default_rng(0)
    ease = rng.beta(0.6, 0.6, 4000)[:, None]  # texts of unlike ease
    chance = np.clip(ease + rng.normal(0, 0.1, (4000, 6)), 0, 1)
    entropy = np.clip(1.5 - chance + rng.normal(0, 0.3, chance.shape), 0, None)
    survival = np.append(1.0, np.cumprod(chance, axis=1).mean(axis=0))
    edges = np.quantile(entropy, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(fit(entropy, chance, edges, by_place=True).survival(6), survival, rtol=1e-9)
    assert fit(entropy, chance, edges).survival(1)[1] > 1.05 * survival[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EntropyModel([1.0], [[1.0]], [1.1]), "acceptance"),
        (lambda: EntropyModel([0.9], [[1.0]], [0.5]), "initial"),
        (lambda: fit([[0.0, 1.0]], [[0.5, 2.0]], [0.5]), "chance"),
        (lambda: fit([[0.0, 1.0]], [[0.5, 0.5]], [0.5, 0.5]), "increase"),
        (lambda: fit([[0.0, np.nan]], [[0.5, 0.5]], [0.5]), "finite"),
        (lambda: fit([[0.0, 1.0]], [[0.5, 0.5]], [0.5], weight=[0.0]), "weight"),
        (lambda: RoundCosts([0.0], [0.0], [[0.1]], [[0.1]], *([0.0] for _ in range(4))), "no time"),
        (lambda: RoundCosts([1.0], [0.0, 1.0], [[0.1]], [[0.1]], *([0.0] for _ in range(4))), "base_j"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fixed_lengths_by_hand():
    model = EntropyModel(initial=[0.5, 0.5], transition=[[1.0, 0.0], [0.0, 1.0]], acceptance=[1.0, 0.5])
    costs = RoundCosts([1.0], [2.0], [[0.1, 0.2]], [[1.0, 2.0]], [10.0], [0.0], [0.0], [100.0])
    tokens, seconds, joules = fixed_length_tables(model, costs)
    # Accepted: the first with 1/2 * 1 + 1/2 * 1/2, both with 1/2 * 1 + 1/2 * 1/4.
    np.testing.assert_allclose(tokens, [[1.0, 1.75, 2.375]])
    np.testing.assert_allclose(seconds, [[1.0, 1.1 + 2.5, 1.3 + 3.75]])
    np.testing.assert_allclose(joules, [[102.0, 3.0 + 75.0, 5.0 + 62.5]])
    np.testing.assert_allclose(model.accepted_lengths(2), [0.25, 0.125, 0.625])
    seconds, joules = costs.by_outcome()
    np.testing.assert_allclose(seconds[0], [[1.0, 11.1, 11.3], [1.0, 1.1, 11.3], [1.0, 1.1, 1.3]])
    np.testing.assert_allclose(joules[0], [[102.0, 3.0, 5.0], [102.0, 103.0, 5.0], [102.0, 103.0, 105.0]])
