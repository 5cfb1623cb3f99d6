"""The acceptance estimate: uncensored, forgetting, and never locked in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.control import Estimator, default_calibration, expected_tokens, ratio
from gelato_jax.types import Outlook, RoundOutcome

G = 8


def _outcome(drafted, accepted):
    one = jnp.float32(1.0)
    return RoundOutcome(
        drafted=jnp.asarray(drafted, jnp.int32),
        accepted=jnp.asarray(accepted, jnp.int32),
        predicted=jnp.float32(0.0),
        tokens=jnp.asarray(accepted, jnp.int32) + 1,
        time_s=one,
        energy_j=one,
        active=jnp.array(True),
    )


def test_counts_in_plain_python():
    estimator = Estimator.create(discount=0.9, prior_strength=3.0)
    estimate = estimator.init(default_calibration(mean_acceptance=0.6))
    successes = failures = 0.0
    for drafted, accepted in [(4, 4), (4, 1), (0, 0), (3, 0), (2, 2)]:
        estimate = estimator.update(estimate, _outcome(drafted, accepted))
        successes = 0.9 * successes + min(accepted, drafted)
        failures = 0.9 * failures + (accepted < drafted)
        mean = (successes + 3.0 * 0.6) / (successes + failures + 3.0)
        assert float(estimator.rate(estimate)) == pytest.approx(mean, rel=1e-5)


def test_not_censored():
    """At gamma 8 and alpha 0.6 accepted / drafted would be 0.18."""
    estimator = Estimator.create(discount=1.0)
    kept = jnp.cumprod(jax.random.uniform(jax.random.key(0), (4_000, G)) < 0.6, axis=1).sum(axis=1)
    start = estimator.init(default_calibration(mean_acceptance=0.3))
    end, _ = jax.lax.scan(lambda s, a: (estimator.update(s, _outcome(G, a)), None), start, kept)
    # about 10,000 trials: 5 standard errors, false alarm under 1e-6
    assert float(estimator.rate(end)) == pytest.approx(0.6, abs=5 * np.sqrt(0.24 / 10_000))
    assert float(kept.mean()) / G < 0.2


def test_the_level_compares_with_what_was_predicted_of_the_same_drafts():
    estimator = Estimator.create(discount=1.0, level_strength=30.0)
    estimate = estimator.init(default_calibration(mean_acceptance=0.6))
    assert float(estimator.level(estimate)) == 1.0
    for accepted, predicted in [(4, 3.0), (2, 2.5), (0, 0.5)]:
        outcome = dataclasses.replace(_outcome(4, accepted), predicted=jnp.float32(predicted))
        estimate = estimator.update(estimate, outcome)
    np.testing.assert_allclose(estimator.level(estimate), (6 + 30 * 0.6) / (6.0 + 30 * 0.6), rtol=1e-6)
    estimate = estimator.update(estimate, dataclasses.replace(_outcome(4, 0), predicted=jnp.float32(0.8)))
    np.testing.assert_allclose(estimator.level(estimate), 24.0 / 24.8, rtol=1e-6)


def test_returns_to_the_prior_while_nothing_is_drafted():
    estimator = Estimator.create()
    estimate = estimator.init(default_calibration(mean_acceptance=0.7))
    for _ in range(20):
        estimate = estimator.update(estimate, _outcome(3, 0))
    assert float(estimator.rate(estimate)) < 0.35
    for _ in range(200):
        estimate = estimator.update(estimate, _outcome(0, 0))
    assert float(estimator.rate(estimate)) == pytest.approx(0.7, abs=1e-3)


def _recovers(estimator):
    """Lowest estimate over 64 seeds, 200 rounds after alpha jumped from 0.1 to 0.8 under `ratio`."""
    time_s = 0.12 + 0.05 * jnp.arange(G + 1, dtype=jnp.float32)  # drafting pays at the prior and at 0.8, not at 0.1
    outlook = Outlook(time_s=time_s, energy_j=time_s, uplink_bps=jnp.float32(1e6), rtt_s=jnp.float32(0.1))
    controller = ratio(penalty_weight=1.0, estimator=estimator)
    alphas = jnp.concatenate([jnp.full(300, 0.1), jnp.full(200, 0.8)])

    def one_round(state, inputs):
        key, alpha = inputs
        drafted = controller.plan(state, outlook).draft_budget
        kept = jnp.cumprod(jax.random.uniform(key, (G,)) < alpha)
        accepted = jnp.sum(jnp.where(jnp.arange(G) < drafted, kept, 0))
        outcome = RoundOutcome(
            drafted=drafted,
            accepted=accepted,
            predicted=jnp.float32(0.0),
            tokens=accepted + 1,
            time_s=time_s[drafted],
            energy_j=time_s[drafted],
            active=jnp.array(True),
        )
        state = controller.update(state, outcome)
        return state, (controller.acceptance_rate(state), drafted)

    def row(key):
        start = controller.init(default_calibration())
        return jax.lax.scan(one_round, start, (jax.random.split(key, 500), alphas))[1]

    rates, drafted = jax.jit(jax.vmap(row))(jax.random.split(jax.random.key(0), 64))
    return np.asarray(rates), np.asarray(drafted)


def test_recovers_within_200_rounds_under_ratio():
    rates, drafted = _recovers(Estimator.create())
    assert (drafted[:, 250:300] == 0).mean() > 0.3  # pessimism does stop drafting: lock-in was possible
    # some 80 discounted trials at the end, standard error 0.045: 0.55 is over 5 of them below 0.8,
    # false alarm under 64 * 3e-7 = 2e-5 (and the seed is fixed)
    assert rates[:, -1].min() > 0.55
    assert abs(rates[:, -1].mean() - 0.8) < 0.05
    assert (drafted[:, -1] > 0).all()


def test_without_forgetting_it_would_not_recover():
    rates, _ = _recovers(Estimator.create(discount=1.0))
    assert rates[:, -1].min() < 0.55


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.999, 1.0])
def test_expected_tokens(alpha):
    expected = [sum(alpha**i for i in range(g + 1)) for g in range(G + 1)]
    np.testing.assert_allclose(expected_tokens(jnp.float32(alpha), G), expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [{"discount": 1.5}, {"prior_strength": 0.0}])
def test_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Estimator.create(**bad)
