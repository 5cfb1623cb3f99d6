"""Joules by this machine's own meters: what its chips count, or what its battery gives."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from gelato_jax.errors import GelatoError

MeterName = Literal["chips", "battery"]
_BATTERIES = Path("/sys/class/power_supply")
_SAMPLE_S = 0.1
"""Between two looks at a battery, whose own figures change once a second or more slowly."""


class Meter(Protocol):
    """Counts joules.

    Attributes:
        covers: what of the machine it sees, for people.
        whole: whether that is all of it, its radio among the rest.
    """

    covers: str
    whole: bool

    def joules(self) -> float:
        """Since any one moment."""
        ...


def open_meter(name: MeterName) -> Meter:
    """One of this machine's meters; see `gelato bench power`.

    Args:
        name: `chips`: the counters of GPUs, processors and memory, or a board's own sensor, through `zeus`. `battery`:
            watts drawn from it, by Linux's files.

    Raises:
        GelatoError: there is none, it may not be read, or `zeus` is not installed.
    """
    if name not in get_args(MeterName):
        raise GelatoError(f"unknown meter {name!r}; known: {', '.join(get_args(MeterName))}")
    return Battery() if name == "battery" else Chips()


class Chips:
    """The counters of chips, summed: they count all that runs there, other programs too.

    Raises:
        GelatoError: see `open_meter`.
    """

    whole = False

    def __init__(self) -> None:
        """Find them."""
        try:
            from zeus.device import get_cpus, get_gpus, get_soc
            from zeus.exception import ZeusBaseError
        except ImportError:
            raise GelatoError('the meter "chips" needs zeus; pip install "gelato-jax[power]"') from None
        self._counters: dict[str, Callable[[], float]] = {}
        refusals = []
        for find in (lambda: _boards(get_soc()), lambda: _gpus(get_gpus()), lambda: _processors(get_cpus())):
            if "board" in self._counters:
                break  # has the chips among the rest
            try:
                self._counters |= find()
            except ZeusBaseError as error:
                refusals.append(" ".join(str(error).split()).rstrip("."))
        if not self._counters:
            raise GelatoError(
                f"no chip of this machine counts joules where this user may read it ({'; '.join(refusals)}); "
                "try battery in place of chips, or leave the meter out"
            )
        self.covers = " and ".join(self._counters)

    def joules(self) -> float:
        """Since any one moment."""
        return sum(counter() for counter in self._counters.values()) / 1e3


def _boards(soc: Any) -> dict[str, Callable[[], float]]:
    """Millijoules of a Jetson's whole board; or of the parts of an Apple chip."""
    known = soc.get_available_metrics()
    board, parts = "total_energy_mj", ["cpu_total_mj", "gpu_mj", "gpu_sram_mj", "ane_mj", "dram_mj"]
    names = [board] if board in known else [part for part in parts if part in known]
    if not names:
        return {}

    def count() -> float:
        seen = soc.get_total_energy_consumption()
        return sum(getattr(seen, name) for name in names)

    return {"board" if names == [board] else "chip": count}


def _gpus(gpus: Any) -> dict[str, Callable[[], float]]:
    """Millijoules of the GPUs that count them: NVIDIA's since Volta, AMD's."""
    counting = [i for i in range(len(gpus)) if gpus.supports_get_total_energy_consumption(i)]
    if not counting:
        return {}
    return {_several(counting, "GPU"): lambda: sum(gpus.get_total_energy_consumption(i) for i in counting)}


def _processors(cpus: Any) -> dict[str, Callable[[], float]]:
    """Millijoules of processors, and of their memory where it is counted."""
    every = range(len(cpus))
    if not every:
        return {}

    def count() -> float:
        seen = [cpus.get_total_energy_consumption(i) for i in every]
        return sum(one.cpu_mj + (one.dram_mj or 0.0) for one in seen)

    memory = all(cpus.supports_get_dram_energy_consumption(i) for i in every)
    return {_several(every, "processor") + " with memory" * memory: count}


def _several(things: Sequence[int], name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) > 1)}"


class Battery:
    """What is drawn from a battery: of the whole machine, screen and radio among the rest.

    Args:
        folder: Linux's power supplies.

    Raises:
        GelatoError: none discharges.
    """

    whole = True

    def __init__(self, folder: Path = _BATTERIES) -> None:
        """Begin to sample, in a thread that the process does not wait for."""
        supplies = sorted(folder.iterdir()) if folder.is_dir() else []
        self._batteries = [one for one in supplies if _read(one / "type") == "Battery" and _watts(one) is not None]
        if not self._batteries:
            raise GelatoError(f"{folder}: no battery there that tells its watts; leave the meter out")
        status = {one.name: _read(one / "status") for one in self._batteries}
        if "Discharging" not in status.values():
            names = ", ".join(f"{name} is {state.lower()}" for name, state in status.items())
            raise GelatoError(f"{folder}: {names}; unplug the machine, a battery that gives nothing measures nothing")
        self.covers = f"the whole machine, from its battery ({', '.join(status)})"
        self._lock = threading.Lock()
        self._joules, self._at = 0.0, time.monotonic()
        self._power_w = self._drawn_w()
        threading.Thread(target=self._sample, name="meter", daemon=True).start()

    def joules(self) -> float:
        """Since it was opened."""
        with self._lock:
            now = time.monotonic()
            self._joules += self._power_w * (now - self._at)
            self._at = now
            return self._joules

    def _sample(self) -> None:
        while True:
            time.sleep(_SAMPLE_S)
            self.joules()
            self._power_w = self._drawn_w()

    def _drawn_w(self) -> float:
        discharging = [one for one in self._batteries if _read(one / "status") == "Discharging"]
        return sum(_watts(one) or 0.0 for one in discharging)


def _watts(battery: Path) -> float | None:
    """Watts that a battery gives; some tell amperes, and some of these below zero."""
    power = _number(battery / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = _number(battery / "current_now"), _number(battery / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage / 1e12


def _number(file: Path) -> float | None:
    try:
        return float(_read(file))
    except ValueError:
        return None


def _read(file: Path) -> str:
    """What a file of the kernel's says; nothing where it is not there, or the battery just left."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
