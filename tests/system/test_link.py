"""Rates against the published Shannon table, fading as a pure function of time, an exact clock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.system import Link, cellular_snr, link_preset

RATES_MBPS = {  # 23 dBm, 128.1 + 37.6 log10(d/km) dB, -174 dBm/Hz
    "1mhz-100m": 15.4,
    "1mhz-500m": 6.7,
    "1mhz-1km": 3.1,
    "5mhz-100m": 65.6,
    "5mhz-500m": 22.3,
    "5mhz-1km": 6.8,
    "20mhz-100m": 223,
    "20mhz-500m": 52.9,
    "20mhz-1km": 9.5,
}


@pytest.mark.parametrize(("name", "mbps"), RATES_MBPS.items())
def test_mean_rate_is_the_published_one(name, mbps):
    channel = link_preset(name).channel()
    half_a_digit = 0.5 if mbps == 223 else 0.05
    assert float(channel.uplink_bps) / 1e6 == pytest.approx(mbps, abs=half_a_digit * 1.01)
    assert float(channel.downlink_bps) == float(channel.uplink_bps)


def test_snr_in_plain_numpy():
    distance_m, bandwidth_hz, shadowing_db = 321.0, 3e6, 7.0
    loss_db = 128.1 + 37.6 * np.log10(distance_m / 1e3) + shadowing_db
    expected = 10 ** ((23 - loss_db + 174 - 10 * np.log10(bandwidth_hz)) / 10)
    np.testing.assert_allclose(cellular_snr(bandwidth_hz, distance_m, shadowing_db), expected, rtol=1e-4)


def _fading_link(**changes):
    # snr far under 1: capacity is then linear in the gain, B * snr * gain / ln 2
    return Link.create(**{"bandwidth_hz": 1e6, "snr": 1e-4, "rtt_s": 0.02, **changes})


def test_gain_is_exponential_with_mean_one():
    link = _fading_link()
    state = link.init(jax.random.key_data(jax.random.key(0)))
    blocks = jnp.arange(20_000)
    observe = jax.vmap(lambda block: link.observe(type(state)(key=state.key, block=block, phase_s=state.phase_s)))
    gain = np.asarray(observe(blocks).uplink_bps) / float(link.channel().uplink_bps)
    # 5 standard errors each: a false alarm has probability under 2e-6 (and the seed is fixed)
    assert abs(gain.mean() - 1) < 5 / np.sqrt(gain.size)
    assert abs(np.mean(gain > 1) - np.exp(-1)) < 5 * 0.5 / np.sqrt(gain.size)


def test_without_fading_the_channel_is_the_mean():
    link = _fading_link(fading=0.0, snr=3.0)
    assert float(link.observe(link.init(jax.random.key_data(jax.random.key(1)))).uplink_bps) == pytest.approx(2e6)


def test_channel_holds_within_a_block_and_changes_between_blocks():
    link = _fading_link(coherence_s=0.1)
    start = link.init(jax.random.key_data(jax.random.key(2)))
    later = link.advance(start, jnp.float32(0.06))
    next_block = link.advance(later, jnp.float32(0.06))
    rate = [float(link.observe(state).uplink_bps) for state in (start, later, next_block)]
    assert rate[0] == rate[1] != rate[2]
    assert int(next_block.block) == 1
    assert float(next_block.phase_s) == pytest.approx(0.02, abs=1e-6)


def test_clock_does_not_drift():
    link = _fading_link(coherence_s=0.1)
    steps = np.random.default_rng(0).uniform(0.0, 0.5, 100_000).astype(np.float32)
    end, _ = jax.lax.scan(
        lambda s, dt: (link.advance(s, dt), None), link.init(jax.random.key_data(jax.random.key(0))), jnp.asarray(steps)
    )
    elapsed = float(end.block) * float(link.coherence_s) + float(end.phase_s)
    # each step rounds the phase by less than 3e-8 s at random: 1e-4 s is over 10 standard deviations
    assert elapsed == pytest.approx(steps.astype(np.float64).sum(), abs=1e-4)


def test_two_runs_with_one_key_meet_the_same_channel():
    link = _fading_link()
    states = [link.init(jax.random.key_data(jax.random.key(5))), link.init(jax.random.key_data(jax.random.key(5)))]
    states[0] = link.advance(link.advance(states[0], jnp.float32(0.3)), jnp.float32(0.45))
    states[1] = link.advance(states[1], jnp.float32(0.75))
    assert float(link.observe(states[0]).uplink_bps) == float(link.observe(states[1]).uplink_bps)


@pytest.mark.parametrize("bad", [{"bandwidth_hz": -1.0}, {"fading": 2.0}, {"rtt_s": float("nan")}])
def test_refuses_what_no_link_has(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        _fading_link(**bad)
