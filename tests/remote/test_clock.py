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
