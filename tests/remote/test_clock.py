"""A device that plans by its clock: what it believes, and that its text stays the target's."""

import dataclasses
import time

import numpy as np
import pytest

import gelato_jax as gelato
from gelato_jax import control, payloads, system
from gelato_jax.remote import device
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.clock import Clock
from gelato_jax.remote.device import stream, without_weights
from gelato_jax.remote.edge import serve
from gelato_jax.remote.sessions import Sessions
from gelato_jax.testing import tiny_pair
from gelato_jax.types import RoundCost

PRESET = system.preset("orin-nano-15w", "5mhz-500m-60ms", "h100-7b")
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def seen(clock, *, network_s=0.2, edge_s=0.03, drafted=0, passes=1, bits=(0, 0)):
    clock.see(drafted=drafted, passes=passes, network_s=network_s, edge_s=edge_s, bits=bits)


def test_nothing_changes_before_anything_was_seen():
    assert Clock(PRESET).system is PRESET


def test_medians_of_delay_and_of_the_edges_passes_take_the_presets_place():
    clock, step_s = Clock(PRESET), float(PRESET.edge.verify_s(np.int32(1)))
    for network_s, factor in ((0.1, 2.0), (0.12, 3.0), (9.0, 40.0), (0.11, 2.5), (0.13, 2.2)):
        seen(clock, network_s=network_s, edge_s=factor * step_s)
    assert clock.delay_s == pytest.approx(0.12)
    assert clock.edge_factor == pytest.approx(2.5)
    believed = clock.system
    assert float(believed.link.rtt_s) == pytest.approx(0.12)
    np.testing.assert_allclose(believed.edge.window_s, 2.5 * PRESET.edge.window_s, rtol=1e-6)
    np.testing.assert_allclose(believed.edge.token_s, 2.5 * PRESET.edge.token_s, rtol=1e-6)
    assert believed.device is PRESET.device
    assert float(believed.link.channel().uplink_bps) == float(PRESET.link.channel().uplink_bps)


def test_bits_windows_and_streamed_passes_are_not_counted_as_delay_or_load():
    mean = PRESET.link.channel()
    for drafted, passes in ((0, 1), (4, 1), (0, 5)):
        clock = Clock(PRESET)
        edge_s = passes * float(PRESET.edge.verify_s(np.int32(drafted + 1)))
        sending_s = 8e5 / float(mean.uplink_bps) + 4e5 / float(mean.downlink_bps)
        bits = (800_000, 400_000)
        seen(clock, network_s=0.05 + sending_s, edge_s=edge_s, drafted=drafted, passes=passes, bits=bits)
        assert clock.delay_s == pytest.approx(0.05)
        assert clock.edge_factor == pytest.approx(1.0)


def test_an_old_delay_is_forgotten():
    clock = Clock(PRESET)
    for network_s in (0.02,) * 20 + (0.3,) * 5:
        seen(clock, network_s=network_s)
    assert clock.delay_s == pytest.approx(0.3)


@pytest.fixture(scope="module")
def pair():
    return dataclasses.replace(tiny_pair(0.02, exits=()), eos_ids=(61,))


class LateClient(EdgeClient):
    """On a path of 80 ms."""

    def call(self, method, request):
        time.sleep(0.08)
        return super().call(method, request)


@pytest.fixture
def edge(pair):
    server, port = serve(Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids), "127.0.0.1:0")
    client = LateClient(f"127.0.0.1:{port}")
    yield client
    client.close()
    server.stop(0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_device_by_the_clock_has_the_same_text_and_no_new_program(temperature, pair, edge):
    settings = gelato.DecodeSettings(max_draft_length=3, max_new_tokens=40, temperature=temperature, seed=2)
    given = {"controller": control.ratio(), "payload": payloads.seeded(), "settings": settings}
    whole = gelato.generate(pair, [PROMPT], system=PRESET, **given)
    clock = Clock(PRESET)
    watched = stream(without_weights(pair), PROMPT, edge, clock=clock, **given)
    programs = []
    for _ in watched:
        programs.append((device._draft._cache_size(), device._commit._cache_size()))
    assert watched.generation().tokens == whole.tokens
    assert len(set(programs[1:])) == 1  # numbers are data
    assert clock.delay_s >= 0.08
    assert float(watched.job.system.link.rtt_s) == pytest.approx(clock.delay_s)
    assert (edge.traffic.delay_s, edge.traffic.edge_factor) == (clock.delay_s, clock.edge_factor)


class Counted:
    """A meter that has counted so many joules at each look."""

    covers = "a test"

    def __init__(self, step_j, *, whole=False):
        self.step_j, self.whole, self.total_j = step_j, whole, 0.0

    def joules(self):
        self.total_j += self.step_j
        return self.total_j


def ticking(step_s):
    """Seconds that pass from look to look."""
    now = iter(np.arange(0.0, 1e6, step_s))
    return lambda: float(next(now))


def cost(**parts):
    zero = {field.name: np.float32(0.0) for field in dataclasses.fields(RoundCost)}
    return RoundCost(**{**zero, **{name: np.float32(value) for name, value in parts.items()}})


def test_joules_are_the_meters_once_it_has_counted_for_a_second():
    clock = Clock(PRESET, Counted(3.0), now=ticking(0.4))
    factors = []
    for _ in range(4):
        assert clock.pay(cost(draft_j=1.0, idle_j=0.5, transmit_j=70.0)) == pytest.approx(3.0)
        factors.append(clock.device_factor)
    assert factors[:3] == [None, None, None]
    believed = clock.system
    assert factors[3] == pytest.approx(2.0)  # of what is not the radio's
    for name in ("token_j", "prefill_j", "idle_w"):
        assert float(getattr(believed.device, name)) == pytest.approx(2 * float(getattr(PRESET.device, name)))
    assert believed.device.token_s is PRESET.device.token_s or believed.device.token_s == PRESET.device.token_s
    assert believed.link is PRESET.link


def test_a_meter_of_the_whole_machine_counts_its_radio():
    clock = Clock(PRESET, Counted(8.0, whole=True), now=ticking(0.6))
    for _ in range(3):
        clock.pay(cost(draft_j=1.0, transmit_j=2.0, receive_j=1.0))
    assert clock.device_factor == pytest.approx(2.0)
    assert float(clock.system.link.transmit_w) == pytest.approx(2 * float(PRESET.link.transmit_w))
    assert float(clock.system.link.receive_w) == pytest.approx(2 * float(PRESET.link.receive_w))


def test_a_load_of_long_ago_is_forgotten_and_the_pause_between_answers_is_no_rounds():
    meter = Counted(1.0)
    clock = Clock(PRESET, meter, now=ticking(0.5))

    def rounds(count):
        for _ in range(count):
            clock.pay(cost(idle_j=0.25 * (clock.device_factor or 1.0)))  # a round's cost has the factor in it

    rounds(30)
    assert clock.device_factor == pytest.approx(4.0)
    meter.step_j = 2.0
    rounds(12)
    assert clock.device_factor == pytest.approx(8.0)
    meter.total_j += 1e6
    clock.rest()
    rounds(3)
    assert clock.device_factor == pytest.approx(8.0, rel=0.5)


def test_the_energy_queue_runs_on_the_meters_joules(pair, edge):
    settings = gelato.DecodeSettings(max_draft_length=3, max_new_tokens=60, stream_length=1)
    clock = Clock(PRESET, Counted(0.7), now=ticking(0.3))
    given = {"controller": control.static(2), "payload": payloads.seeded(), "settings": settings}
    metered = stream(without_weights(pair), PROMPT, edge, clock=clock, **given)
    seen = list(metered)
    on_chip = [float((one.cost.draft_j + one.cost.catch_up_j + one.cost.idle_j)[0]) for one in seen]
    assert np.mean(on_chip[8:]) == pytest.approx(0.7, rel=0.1)  # 0.7 a round is what it counts
    assert metered.traffic.metered_j == pytest.approx(0.7 * len(seen))
    assert metered.traffic.device_factor == pytest.approx(clock.device_factor, rel=0.1)
