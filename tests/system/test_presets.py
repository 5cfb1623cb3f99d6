"""Every name builds; the numbers are the published ones; unknown names say what is known."""

import math

import jax.numpy as jnp
import pytest

from gelato_jax import payloads, system
from gelato_jax.types import AcceptanceForecast


@pytest.mark.parametrize(
    ("name", "tokens_per_s", "watts"),
    [
        ("orin-nano-15w", 68.3, 5.34),
        ("orin-nano-7w:smollm2-135m", 53.9, 1.99),
        ("orin-nano-maxn:llama-3.2-1b", 51.9, 10.54),
    ],
)
def test_orin(name, tokens_per_s, watts):
    device = system.device_preset(name)
    assert 1 / float(device.token_s) == pytest.approx(tokens_per_s, rel=1e-5)
    assert float(device.token_j) * tokens_per_s == pytest.approx(watts, rel=1e-5)


def test_raspberry_pi_joules_per_token():
    assert float(system.device_preset("raspberry-pi-4").token_j) == pytest.approx(2.6, rel=1e-5)


@pytest.mark.parametrize(("name", "ms"), [("h100-7b", 6.4), ("vllm-7b", 14.3), ("rtx3090-7b", 23), ("a40-7b", 29.6)])
def test_edges(name, ms):
    assert float(system.edge_preset(name).verify_s(jnp.int32(1))) * 1e3 == pytest.approx(ms, rel=1e-5)


@pytest.mark.parametrize(("name", "ms"), [("5mhz-500m", 20), ("5mhz-500m-140ms", 140), ("wifi-5ms", 5), ("perfect", 0)])
def test_delay_suffix(name, ms):
    assert float(system.link_preset(name).rtt_s) * 1e3 == pytest.approx(ms)


def test_every_name_builds_and_has_a_source():
    for table, build in (
        (system.DEVICES, system.device_preset),
        (system.LINKS, system.link_preset),
        (system.EDGES, system.edge_preset),
    ):
        for name, entry in table.items():
            assert entry.source
            build(name)


@pytest.mark.parametrize("kind", ["device", "link", "edge"])
def test_unknown_name_lists_the_known(kind):
    known = {"device": "orin-nano-15w", "link": "5mhz-500m", "edge": "h100-7b"}[kind]
    with pytest.raises(ValueError, match=f"unknown {kind} 'toaster'.*{known}"):
        system.preset(**{kind: "toaster"})


def test_local_costs_only_measured_time():
    machine = system.local(draft_token_s=0.01, window_s={1: 0.02, 5: 0.03})
    channel = machine.link.channel()
    assert math.isinf(float(channel.uplink_bps))
    cost_table = machine.cost_table(
        channel,
        payloads.full(),
        payloads.Vocabularies.whole(49_152),
        work=1.0,
        catch_up=0.0,
        acceptance=AcceptanceForecast.independent(0.5, 4),
        support=0.0,
    )
    assert cost_table.time_s.tolist() == pytest.approx([0.02, 0.04, 0.05, 0.06, 0.07])
    assert cost_table.energy_j.tolist() == [0.0] * 5


@pytest.mark.parametrize(
    "bad", [{"draft_token_s": -1.0, "window_s": {1: 1.0}}, {"draft_token_s": 1.0, "window_s": {3: 1.0}}]
)
def test_local_refuses_missing_measurements(bad):
    with pytest.raises(ValueError, match=r"draft_token_s|measured windows"):
        system.local(**bad)


def test_a_measured_device_is_a_preset_in_a_file(tmp_path):
    file = tmp_path / "mine.json"
    system.write_device(file, system.DevicePreset(tokens_per_s=50, draft_w=4, idle_w=1.5, source="measured"))
    device = system.preset(device=str(file)).device
    assert float(device.token_s) == pytest.approx(0.02)
    assert float(device.token_j) == pytest.approx(0.08)
    assert float(device.idle_w) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no device; it must be JSON with tokens_per_s, draft_w, idle_w, source"),
        ("[1]", "no device"),
        ('{"tokens_per_s": 5, "draft_w": 4, "idle_w": 1}', "no device"),
        ('{"tokens_per_s": "5", "draft_w": 4, "idle_w": 1, "source": ""}', "tokens_per_s is '5', must be a number"),
        ('{"tokens_per_s": 5, "draft_w": true, "idle_w": 1, "source": ""}', "draft_w is True"),
        ('{"tokens_per_s": 5, "draft_w": 4, "idle_w": NaN, "source": ""}', "idle_w is nan"),
        ('{"tokens_per_s": 0, "draft_w": 4, "idle_w": 1, "source": ""}', "above 0"),
    ],
)
def test_a_file_that_is_no_device_is_refused_by_its_name(text, fault, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"{file}: .*{fault}"):
        system.device_preset(str(file))


def test_a_device_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json: No such file"):
        system.device_preset(str(tmp_path / "absent.json"))
