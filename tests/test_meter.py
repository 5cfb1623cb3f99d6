"""Meters on stand-in files of the kernel's: the counters of `zeus` and a battery's are read as they are elsewhere."""

import threading
import time

import pytest

from gelato_jax.errors import GelatoError
from gelato_jax.meter import Battery, Chips, open_meter

UNIT_UJ = 1e6


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(text))


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """Two processors, the first of which has memory; the clock of neither runs."""
    rapl = pytest.importorskip("zeus.device.cpu.rapl")
    cpu = pytest.importorskip("zeus.device.cpu")
    folder = tmp_path / "intel-rapl"
    parts = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0/intel-rapl:0:0": "dram"}
    for place, name in parts.items():
        write(folder / place / "name", name)
        write(folder / place / "energy_uj", 5 * UNIT_UJ)
        write(folder / place / "max_energy_range_uj", 262143328850)
    monkeypatch.setattr(rapl, "RAPL_DIR", str(folder))
    monkeypatch.setattr(cpu, "_cpus", None)
    rapl.rapl_is_available.cache_clear()
    yield folder
    rapl.rapl_is_available.cache_clear()
    monkeypatch.setattr(cpu, "_cpus", None)


def test_processors_and_memory_are_summed_in_joules(counters):
    meter = open_meter("chips")
    before = meter.joules()
    for place, joules in (("intel-rapl:0", 7), ("intel-rapl:1", 9), ("intel-rapl:0/intel-rapl:0:0", 6)):
        write(counters / place / "energy_uj", joules * UNIT_UJ)
    assert meter.joules() - before == pytest.approx(2 + 4 + 1)
    assert (meter.covers, meter.whole) == ("2 processors", False)


def test_a_machine_without_counters_is_told_what_was_looked_for(tmp_path, monkeypatch):
    rapl = pytest.importorskip("zeus.device.cpu.rapl")
    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path / "absent"))
    monkeypatch.setattr(rapl, "CONTAINER_RAPL_DIR", str(tmp_path / "absent"))
    rapl.rapl_is_available.cache_clear()
    with pytest.raises(GelatoError, match=r"RAPL.*try battery in place of chips"):
        Chips()
    rapl.rapl_is_available.cache_clear()


def battery(folder, name="BAT0", status="Discharging", **files):
    write(folder / name / "type", "Battery\n")
    write(folder / name / "status", status + "\n")
    for file, value in files.items():
        write(folder / name / file, value)


@pytest.mark.parametrize(
    "files", [{"power_now": 20_000_000}, {"current_now": -2_000_000, "voltage_now": 10_000_000}], ids=["watts", "volts"]
)
def test_a_battery_is_integrated_over_time(files, tmp_path):
    battery(tmp_path, **files)
    write(tmp_path / "AC" / "type", "Mains")
    meter = Battery(tmp_path)
    before, begin = meter.joules(), time.monotonic()
    time.sleep(0.3)
    took_j, took_s = meter.joules() - before, time.monotonic() - begin
    assert took_j == pytest.approx(20 * took_s, rel=0.1)
    assert meter.whole


def test_a_battery_is_followed_where_its_load_changes_and_counts_nothing_once_it_charges(tmp_path):
    battery(tmp_path, power_now=1_000_000)
    meter = Battery(tmp_path)
    write(tmp_path / "BAT0" / "power_now", 100_000_000)
    time.sleep(0.5)
    assert meter.joules() > 20  # half a second at one watt is half a joule
    write(tmp_path / "BAT0" / "status", "Charging")
    time.sleep(0.3)
    before = meter.joules()
    time.sleep(0.2)
    assert meter.joules() == before


def test_a_battery_may_be_read_from_several_threads(tmp_path):
    battery(tmp_path, power_now=10_000_000)
    meter, seen = Battery(tmp_path), []
    threads = [threading.Thread(target=lambda: seen.append(meter.joules())) for _ in range(16)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < max(seen) <= 10 * (time.monotonic() - begin + 0.5)


def test_a_battery_that_cannot_measure_is_refused_by_name(tmp_path):
    with pytest.raises(GelatoError, match="no battery there"):
        Battery(tmp_path / "absent")
    battery(tmp_path, status="Full", power_now=0)
    with pytest.raises(GelatoError, match="BAT0 is full; unplug"):
        Battery(tmp_path)


def test_an_unknown_meter_is_refused():
    with pytest.raises(GelatoError, match="known: chips, battery"):
        open_meter("wall")  # type: ignore[arg-type]
