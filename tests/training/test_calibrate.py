"""Fits against what is known of them: curves that made the data, distributions of the isotonic fit, counts by hand."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gelato_jax.control.calibration import acceptance_at
from gelato_jax.testing import tiny_pair
from gelato_jax.training import calibrate, metrics
from gelato_jax.training.states import Answer
from gelato_jax.training.trace import Trace
from gelato_jax.types import KNOWN_POSITIONS

FINITE = st.floats(0, 1, width=32)


def no_repeats(tokens, exits):
    """Fields of a trace in which nothing repeats."""
    return {
        "repeat_count": np.zeros(tokens, int),
        "repeat_odds": np.zeros((tokens, exits)),
        "repeat_chance": np.zeros(tokens),
        "repeat_wins": np.zeros(tokens, bool),
        "rival": np.zeros((tokens, exits)),
        "rival_wins": np.zeros((tokens, exits), bool),
    }


def fake_trace(random, tokens, *, scale=1.1, decay=0.5):
    """Two exits; outcomes at each follow a curve, those of the second one the higher."""
    entropy = random.exponential(1.5, (tokens, 2)).astype(np.float32)
    chance = np.minimum(1, np.array([0.8, 1]) * scale * np.exp(-decay * entropy))
    return Trace(
        entropy=entropy,
        probe=entropy,
        acceptance=chance,
        chance=chance,
        agreement=random.random((tokens, 2)) < chance,
        target_entropy=entropy[:, 0],
        reached=np.ones((tokens, 2), bool),
        **no_repeats(tokens, 2),
    )


@pytest.mark.parametrize(("scale", "decay"), [(1.0, 0.35), (0.7, 0.0), (1.6, 0.8), (0.9, 2.5)])
def test_a_curve_is_found_again(scale, decay):
    entropy = np.random.default_rng(0).exponential(1.5, 4000)
    found = calibrate.fit_curve(entropy, calibrate.curve(scale, decay, entropy))
    np.testing.assert_allclose(found, (scale, decay), rtol=1e-3, atol=1e-5)


def test_no_curve_nearby_is_better():
    random = np.random.default_rng(1)
    entropy = random.exponential(1.5, 3000)
    outcome = (random.random(3000) < 0.9 / (1 + entropy)).astype(float)  # of another family
    scale, decay = calibrate.fit_curve(entropy, outcome)
    error = lambda a, b: np.mean(np.square(outcome - calibrate.curve(a, b, entropy)))  # noqa: E731
    for a in (0.98, 1, 1.02):
        for b in (0.98, 1, 1.02):
            assert error(scale * a, decay * b) >= error(scale, decay) - 1e-9


@given(st.lists(st.tuples(FINITE, st.floats(0.125, 8, width=32)), min_size=1, max_size=12))
def test_the_isotonic_fit_is_the_projection(points):
    values, weights = np.array(points, np.float64).T
    fit = calibrate.non_increasing(values, weights)
    assert (np.diff(fit) <= 1e-12).all()
    np.testing.assert_allclose((weights * fit).sum(), (weights * values).sum(), rtol=1e-9, atol=1e-12)
    # Optimal: the residual is orthogonal to the fit, and against every direction of the cone.
    residual = weights * (values - fit)
    assert abs((residual * fit).sum()) < 1e-9
    assert (np.cumsum(residual) <= 1e-9).all()


def test_calibration_error_by_hand():
    predicted = np.array([0.1, 0.2, 0.3, 0.4])
    outcome = np.array([0.0, 1.0, 0.0, 1.0])
    error, table = calibrate.calibration_error(predicted, outcome, bins=2)
    assert error == pytest.approx((2 * abs(0.15 - 0.5) + 2 * abs(0.35 - 0.5)) / 4)
    assert [row["count"] for row in table] == [2, 2]
    ties = calibrate.calibration_error(np.full(4, 0.5), outcome)
    assert ties[0] == 0
    assert len(ties[1]) == 1


def test_a_calibration_says_what_made_the_data():
    """Classes hold about 10,000 tokens: 0.02 is 4 standard errors of a mean, false alarm under 2e-3 in all."""
    random = np.random.default_rng(2)
    traces = [fake_trace(random, 100) for _ in range(800)]
    fit = calibrate.fit_calibration(traces, "greedy")
    np.testing.assert_allclose(fit.scale, [0.88, 1.1], atol=0.03)
    np.testing.assert_allclose(fit.decay, [0.5, 0.5], atol=0.03)
    trace = calibrate.joined(traces)
    classes = calibrate.class_of(np.asarray(fit.class_edges), trace.entropy[:, 1])
    means = [trace.agreement[classes == index, 1].mean() for index in range(8)]
    np.testing.assert_allclose(fit.class_acceptance[1], means, atol=0.02)
    assert (np.diff(fit.class_acceptance, axis=1) <= 1e-6).all()
    # Entropies of neighbours and of exits are independent here: the past and the other exit say nothing.
    np.testing.assert_allclose(fit.next_acceptance, trace.agreement[:, 1].mean(), atol=0.03)
    np.testing.assert_allclose(fit.deeper_acceptance[0, :, 1], trace.agreement[:, 1].mean(), atol=0.03)
    np.testing.assert_allclose(fit.deeper_acceptance[1, :, 1], means, atol=0.02)
    # The sixth draft of a round is reached some 2,000 times.
    np.testing.assert_allclose(fit.conditional_acceptance[:6], trace.agreement[:, 1].mean(), atol=0.05)
    report = calibrate.reliability(fit, [fake_trace(random, 100) for _ in range(200)], "greedy")
    assert max(report["curve"]["error"] + report["classes"]["error"]) < 0.03
    # What controllers read is the curve that was fitted.
    read = acceptance_at(fit, jnp.asarray(2.0), jnp.asarray(0), 1.0)
    np.testing.assert_allclose(read, calibrate.curve(fit.scale[0], fit.decay[0], np.array(2.0)), rtol=1e-5)


def test_a_wrong_fit_has_a_large_error():
    random = np.random.default_rng(3)
    fit = calibrate.fit_calibration([fake_trace(random, 500) for _ in range(4)], "greedy")
    worse = [fake_trace(random, 500, scale=0.6) for _ in range(4)]
    assert min(calibrate.reliability(fit, worse, "greedy")["curve"]["error"]) > 0.1


def test_what_follows_an_accepted_token_counts():
    """Entropy 0 or 4; a token behind a rejected one is always right, one behind an accepted one never."""
    agreement = np.array([True, False] * 50)
    entropy = np.where(np.arange(100) % 4 < 2, 0.0, 4.0)[:, None]
    trace = fake_trace(np.random.default_rng(0), 100)
    trace = Trace(**{**vars(trace), "entropy": entropy, "probe": entropy, "agreement": agreement[:, None]})
    fit = calibrate.fit_calibration([trace], "greedy")
    assert float(fit.next_acceptance.max()) < 1e-6


def of_last_exit(random, distribution, chance, acceptance):
    """A trace whose deepest exit did that under `distribution`; all else is noise."""
    trace, size = fake_trace(random, len(chance)), len(chance)
    columns = {"agreement": chance} if distribution == "greedy" else {"chance": chance, "acceptance": acceptance}
    return Trace(**{**vars(trace), **{name: np.stack([random.random(size), own], 1) for name, own in columns.items()}})


HAZARD = 0.5 * 0.8 ** np.arange(KNOWN_POSITIONS)
SIZES = [1, 2, 3, 5, 8, 13, 400]


def test_conditional_agreement_is_found_again():
    """An error of a place is judged by its own standard error: 4.5 of them, false alarm under 1e-4 in all."""
    random, traces, reached = np.random.default_rng(5), [], np.zeros(max(SIZES))
    for size in SIZES * 60:
        agreed, position = np.zeros(size), 0
        for token in range(size):
            reached[position] += 1
            agreed[token] = random.random() >= HAZARD[min(position, KNOWN_POSITIONS - 1)]
            position = position + 1 if agreed[token] else 0
        traces.append(of_last_exit(random, "greedy", agreed, agreed))
    found, reached = calibrate.fit_conditional(traces, "greedy"), reached[:KNOWN_POSITIONS]
    assert reached.min() > 300
    assert (abs(found - (1 - HAZARD)) < 4.5 * np.sqrt(HAZARD * (1 - HAZARD) / reached)).all()


def test_conditional_chances_are_found_again():
    """Two kinds of text, each lasting; a token's chance is spread about its kind's acceptance.

    Over 25 seeds the last place has a standard deviation of 0.0034, all others less: 4 of them.
    """
    random, accept, stays = np.random.default_rng(6), np.array([0.9, 0.3]), 0.85
    turn = np.array([[stays, 1 - stays], [1 - stays, stays]])
    distribution, expected = np.array([0.5, 0.5]) * (1 - accept) @ turn, []
    for _ in range(KNOWN_POSITIONS):
        expected.append(distribution @ accept / distribution.sum())
        distribution = distribution * accept @ turn
    traces = []
    for size in [400] * 400:
        turns = random.random(size) > np.r_[0.5, np.full(size - 1, stays)]
        kinds = np.logical_xor.accumulate(turns).astype(int)
        chance = random.beta(2 * accept[kinds], 2 * (1 - accept[kinds]))
        traces.append(of_last_exit(random, "sampled", chance, accept[kinds]))
    found = calibrate.fit_conditional(traces, "sampled")
    np.testing.assert_allclose(found, expected, atol=0.015)
    assert expected[-1] - expected[0] > 0.2


@given(st.lists(st.integers(1, KNOWN_POSITIONS + 3), min_size=1, max_size=4), st.integers(0, 99))
def test_conditional_acceptance_of_short_texts_by_hand(sizes, seed):
    random = np.random.default_rng(seed)
    texts = [random.random((2, size)) for size in sizes]
    reached, stood = np.zeros(KNOWN_POSITIONS), np.zeros(KNOWN_POSITIONS)
    for chance, acceptance in texts:
        for begin in range(len(chance)):
            alive = 1 - chance[begin - 1] if begin else 1.0
            for place in range(min(KNOWN_POSITIONS, len(chance) - begin)):
                reached[place] += alive
                stood[place] += alive * acceptance[begin + place]
                alive *= chance[begin + place]
    found = calibrate.fit_conditional([of_last_exit(random, "sampled", *text) for text in texts], "sampled")
    np.testing.assert_allclose(found, (stood + stood.sum() / reached.sum()) / (reached + 1), rtol=1e-5)


def test_a_place_that_no_draft_reached_has_the_mean():
    random = np.random.default_rng(0)
    traces = [of_last_exit(random, "greedy", agreed, agreed) for agreed in (np.ones(1), np.array([1.0, 0.0]))]
    found = calibrate.fit_conditional(traces, "greedy")  # three drafts, two stood
    np.testing.assert_allclose(found, [8 / 9, 1 / 3, *[2 / 3] * (KNOWN_POSITIONS - 2)], rtol=1e-6)


@given(st.integers(0, 30), st.integers(0, 9))
def test_a_split_is_a_partition(prompts, seed):
    fitted, held_out = calibrate.split_prompts(prompts, seed)
    assert sorted([*fitted, *held_out]) == list(range(prompts))
    assert 0 <= len(fitted) - len(held_out) <= 1


def test_evaluation_is_json_and_categories_count_alike():
    pair = tiny_pair(0.3, exits=(1,))
    random = np.random.default_rng(4)
    kinds = [("a", 0.0, 20), ("b", 0.0, 9), ("b", 0.0, 15), ("a", 1.0, 12), ("a", 1.0, 1)]
    answers = [
        Answer(kind, random.integers(0, 61, 5).astype(np.int32), random.integers(0, 61, size).astype(np.int32), heat)
        for kind, heat, size in kinds
    ]
    report = json.loads(json.dumps(metrics.evaluate(pair.target, pair.draft, answers)))
    greedy = report["greedy"]
    assert {name: row["tokens"] for name, row in greedy["categories"].items()} == {"a": 19, "b": 22}
    both = [greedy["categories"][name]["acceptance"] for name in "ab"]
    np.testing.assert_allclose(greedy["average"]["acceptance"], np.mean(both, axis=0))
    pooled = (19 * np.array(both[0]) + 22 * np.array(both[1])) / 41
    np.testing.assert_allclose(greedy["overall"]["acceptance"], pooled)
    assert report["sampled"]["overall"]["prompts"] == 1  # an answer of one token has nothing to draft
    assert report["sampled"]["reliability"]["held_out"] is None
    curve = np.array(greedy["average"]["tokens_per_round"])
    assert curve.shape == (2, 12)
    assert (np.diff(curve, axis=1) > -1e-9).all()
    assert (curve >= 1).all()
    # The draft is a copy with one early exit: its norm is one more, and without a probe the head is read twice.
    whole = sum(array.size for path, array in pair.target.params.items() if not path.startswith("embed."))
    assert report["cost"]["weights"][1] == pytest.approx(1 + (61 * 16 + 16) / whole)
    assert report["cost"]["weights"][0] == pytest.approx(float(pair.draft.work[0]) * report["cost"]["weights"][1])
    assert set(greedy["reliability"]["stored"]) == {"curve", "classes"}


def known_depths(entropy, shallow, deep):
    """A trace of two exits whose outcomes are given, the first exit's check saying `entropy`."""
    outcome = np.stack([shallow, deep], axis=1)
    both = np.stack([entropy, entropy], axis=1)
    return Trace(
        entropy=both,
        probe=both,
        acceptance=outcome,
        chance=outcome,
        agreement=outcome,
        target_entropy=entropy,
        reached=np.ones(both.shape, bool),
        **no_repeats(*both.shape),
    )


def test_depth_by_token_saves_where_the_check_knows():
    # Half of the tokens are as good at the first exit, and the check tells which: full acceptance at three quarters.
    entropy = np.repeat([0.1, 2.0], 50).astype(np.float32)
    trace = known_depths(entropy, np.repeat([1.0, 0.0], 50), np.ones(100))
    best = max(metrics.depth_choices(trace, np.array([0.5, 1.0]), "sampled"), key=lambda row: row["saves"])
    assert best["acceptance"] == 1.0
    assert best["work"] == pytest.approx(0.75)
    assert best["saves"] == pytest.approx(0.25)


def test_depth_by_token_saves_nothing_where_the_check_knows_nothing():
    random = np.random.default_rng(0)
    entropy = random.random(200_000).astype(np.float32)
    trace = known_depths(entropy, (random.random(200_000) < 0.4) * 1.0, (random.random(200_000) < 0.6) * 1.0)
    # Five standard deviations of an acceptance are 0.006, a fortieth of the way between the exits: 0.02 of the work.
    assert all(abs(row["saves"]) < 0.03 for row in metrics.depth_choices(trace, np.array([0.5, 1.0]), "sampled"))


def test_one_exit_leaves_no_choice():
    trace = fake_trace(np.random.default_rng(0), 10)
    single = Trace(**{name: value[..., :1] if value.ndim > 1 else value for name, value in vars(trace).items()})
    assert metrics.depth_choices(single, np.array([1.0]), "greedy") == []
