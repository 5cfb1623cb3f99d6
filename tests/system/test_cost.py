"""Round, cost_table and marginal costs against sums in plain Python, and against one another."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax import payloads
from gelato_jax.payloads import Vocabularies
from gelato_jax.system import Channel, Device, Edge, Link, System
from gelato_jax.types import AcceptanceForecast

V, U, G = 1_000, 500, 6
DEVICE = {"token_s": 0.015, "token_j": 0.08, "idle_w": 0.4, "prefill_s": 0.002, "prefill_j": 0.01}
LINK = {"bandwidth_hz": 1e6, "snr": 3.0, "rtt_s": 0.02, "transmit_w": 1.2, "receive_w": 0.8}
STEP_S, TOKEN_S = 0.0064, 0.0002
UP_BPS, DOWN_BPS, RTT_S = 2e5, 5e5, 0.06
SIZES = Vocabularies(target=V, draft=U)
HEADER = 8


@pytest.fixture(scope="module")
def system():
    return System(device=Device.create(**DEVICE), link=Link.create(**LINK), edge=Edge.line(STEP_S, token_s=TOKEN_S))


@pytest.fixture(scope="module")
def channel():
    return Channel(uplink_bps=jnp.float32(UP_BPS), downlink_bps=jnp.float32(DOWN_BPS), rtt_s=jnp.float32(RTT_S))


def _round(work, catch_up, up_bits, down_bits, window, trips):
    """The same round in plain Python: seconds and joules."""
    up_s, down_s, edge_s = up_bits / UP_BPS, down_bits / DOWN_BPS, STEP_S + TOKEN_S * (window - 1)
    waiting_s = up_s + down_s + edge_s + trips * RTT_S
    seconds = work * 0.015 + catch_up * 0.002 + waiting_s
    joules = work * 0.08 + catch_up * 0.01 + 1.2 * up_s + 0.8 * down_s + 0.4 * waiting_s
    return seconds, joules


@pytest.mark.parametrize("trips", [1.0, 2.0])
def test_round_is_the_sum_of_its_parts(system, channel, trips):
    cost = system.round_cost(
        channel,
        draft_work=jnp.float32(2.5),
        catch_up_tokens=jnp.int32(3),
        uplink_bits=jnp.float32(4_000),
        downlink_bits=jnp.float32(9_000),
        window=jnp.int32(5),
        round_trips=trips,
    )
    np.testing.assert_allclose((cost.time_s, cost.energy_j), _round(2.5, 3, 4_000, 9_000, 5, trips), rtol=1e-5)


def _cost_table(system, channel, scheme, **changes):
    numbers = {
        "work": 0.7,
        "catch_up": 1.0,
        "acceptance": AcceptanceForecast.independent(0.6, G),
        "support": 9.0,
        "pending": 1,
    }
    return system.cost_table(channel, scheme, SIZES, **{**numbers, **changes})


@pytest.mark.parametrize(
    ("scheme", "bits"), [(payloads.full(), 10 + 32 * U), (payloads.top_p(0.9), 10 + 42 * 9), (payloads.seeded(), 10)]
)
def test_outlook_where_the_answer_does_not_depend_on_the_verdict(system, channel, scheme, bits):
    cost_table = _cost_table(system, channel, scheme)
    expected = [_round(0.7 * g, 0.6**g, HEADER + bits * g + 10, HEADER + 10, g + 1, 1) for g in range(G + 1)]
    np.testing.assert_allclose(np.stack([cost_table.time_s, cost_table.energy_j], 1), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "survival", [0.6 ** np.arange(G + 1), 1 / (1 + np.arange(G + 1))], ids=["independent", "conditional"]
)
@pytest.mark.parametrize("count", [0, 3])
def test_outlook_expects_over_the_verdict(system, channel, count, survival):
    scheme = payloads.candidates(count) if count else payloads.scalar()
    forecast = AcceptanceForecast(rate=jnp.float32(0.6), survival=jnp.asarray(survival, jnp.float32))
    cost_table = _cost_table(system, channel, scheme, acceptance=forecast)
    expected = []
    for g, kept in enumerate(survival):
        rows = (1 - kept) * 0.6**count if count else 1 - kept
        asks = rows if count else 0
        down = HEADER + kept * 10 + (1 - kept) * count * 42 + rows * 32 * V
        expected.append(_round(0.7 * g, kept, HEADER * (1 + asks) + 42 * g + 10, down, g + 1, 1 + asks))
    np.testing.assert_allclose(np.stack([cost_table.time_s, cost_table.energy_j], 1), expected, rtol=1e-5)


def test_a_device_that_never_drafts_feeds_nothing_but_still_waits(system, channel):
    cost_table = _cost_table(system, channel, payloads.scalar(), catch_up=0.0, pending=0)
    np.testing.assert_allclose(
        (cost_table.time_s[0], cost_table.energy_j[0]), _round(0, 0, HEADER, HEADER + 10, 1, 1), rtol=1e-5
    )


@pytest.mark.parametrize("remaining", [40, 3, 0])
def test_a_draft_that_has_not_read_its_prompt_shares_it_among_the_tokens_to_come(system, channel, remaining):
    cost_table = _cost_table(system, channel, payloads.seeded(), unread=True, lag=100, remaining=remaining)
    expected = []
    for g in range(G + 1):
        tokens = sum(0.6**i for i in range(g + 1))
        fed = 0.6**g + 100 * min(tokens / max(remaining, 1), 1.0) if g else 0.0
        expected.append(_round(0.7 * g, fed, HEADER + 10 * g + 10, HEADER + 10, g + 1, 1))
    np.testing.assert_allclose(np.stack([cost_table.time_s, cost_table.energy_j], 1), expected, rtol=1e-5)
    np.testing.assert_allclose(cost_table.catch_up_s, 100 * DEVICE["prefill_s"], rtol=1e-6)


@pytest.mark.parametrize("scheme", [payloads.full(), payloads.top_k(9), payloads.seeded()])
def test_marginal_cost_is_the_slope_of_the_outlook(system, channel, scheme):
    cost_table = _cost_table(system, channel, scheme, catch_up=0.0)
    for g in range(G):
        marginal = system.token_cost(channel, scheme, SIZES, work=0.7, support=9.0, window=jnp.int32(g + 1))
        slope = cost_table.time_s[g + 1] - cost_table.time_s[g], cost_table.energy_j[g + 1] - cost_table.energy_j[g]
        np.testing.assert_allclose(marginal, slope, rtol=1e-4)


def test_prefill_reads_the_prompt_twice_and_sends_its_ids(system, channel):
    cost = system.prefill_cost(channel, prompt_tokens=jnp.int32(100), read_tokens=jnp.int32(100), sizes=SIZES)
    np.testing.assert_allclose((cost.time_s, cost.energy_j), _round(0, 100, 1_000, 10, 100, 1), rtol=1e-4)
    alone = system.prefill_cost(channel, prompt_tokens=jnp.int32(100), read_tokens=jnp.int32(0), sizes=SIZES)
    np.testing.assert_allclose((alone.time_s, alone.energy_j), _round(0, 0, 1_000, 10, 100, 1), rtol=1e-4)
    assert float(cost.draft_j) == 0


def test_rows_and_numbers_share_one_program(system, channel):
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def tables(idle_w, mass):
        device = Device.create(**{**DEVICE, "idle_w": idle_w})
        varied = System(device=device, link=system.link, edge=system.edge)
        return _cost_table(varied, channel, payloads.top_p(mass)).energy_j

    rows = jax.vmap(tables)(jnp.array([0.4, 0.8]), jnp.array([0.9, 0.5]))
    assert rows.shape == (2, G + 1)
    assert np.all(rows[1] > rows[0])
    jax.vmap(tables)(jnp.array([0.1, 0.2]), jnp.array([0.3, 0.4]))
