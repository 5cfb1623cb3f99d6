"""Named systems from published numbers. Every number carries its source or the word "assumed"."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gelato_jax.errors import GelatoError
from gelato_jax.files import write_json
from gelato_jax.system.cost import System
from gelato_jax.system.device import Device
from gelato_jax.system.edge import Edge
from gelato_jax.system.link import Link, cellular_snr

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class DevicePreset:
    """A device running one draft model."""

    tokens_per_s: float
    draft_w: float  # watts while it decodes
    idle_w: float
    source: str


@dataclass(frozen=True, kw_only=True)
class LinkPreset:
    """A link: bandwidth with a distance (macro cell) or with a signal-to-noise ratio."""

    bandwidth_hz: float
    distance_m: float | None = None
    snr: float = 1.0
    rtt_s: float = 0.020  # assumed: an edge in the same city
    fading: float = 1.0
    transmit_w: float = 1.2
    receive_w: float = 0.8
    source: str


@dataclass(frozen=True, kw_only=True)
class EdgePreset:
    """A server: seconds of one target step."""

    step_s: float
    source: str


DEFAULT_MODEL = "qwen2.5-0.5b"
_ORIN_SOURCE = "smolhub.com benchmark, llama.cpp CUDA, CPU+GPU rail; idle 0.4 W on that rail assumed"
_ORIN_IDLE_W = 0.4
_ORIN_MODES = ("7w", "15w", "25w", "maxn")
_ORIN_MODELS = {  # (tokens/s, watts) in each power mode of a Jetson Orin Nano Super 8 GB
    "smollm2-135m": ((53.9, 1.99), (114.5, 4.27), (165.1, 5.74), (159.4, 6.51)),  # Q4_K_M
    "smollm2-360m": ((34.8, 2.27), (70.6, 4.98), (101.8, 6.76), (89.4, 7.42)),  # Q8_0
    "qwen2.5-0.5b": ((27.4, 2.22), (68.3, 5.34), (92.6, 7.05), (100.5, 8.73)),  # Q4_K_M
    "qwen3-0.6b": ((14.2, 1.98), (33.9, 5.02), (49.4, 6.89), (54.2, 8.19)),  # Q8_0
    "llama-3.2-1b": ((12.1, 2.26), (32.3, 6.04), (47.0, 8.56), (51.9, 10.54)),  # Q4_K_M
}


def _orin_presets() -> dict[str, DevicePreset]:
    presets = {}
    for model, figures in _ORIN_MODELS.items():
        for mode, (rate, watts) in zip(_ORIN_MODES, figures, strict=True):
            entry = DevicePreset(tokens_per_s=rate, draft_w=watts, idle_w=_ORIN_IDLE_W, source=_ORIN_SOURCE)
            presets[f"orin-nano-{mode}:{model}"] = entry
            if model == DEFAULT_MODEL:
                presets[f"orin-nano-{mode}"] = entry
    return presets


DEVICES: dict[str, DevicePreset] = {
    **_orin_presets(),
    "raspberry-pi-4": DevicePreset(
        tokens_per_s=6.4 / 2.6,
        draft_w=6.4,
        idle_w=2.7,
        source="Qwen2.5-0.5B Q4 2.6 J/token at the wall (edge.postlark.ai, 2026-04-11); 6.4 W busy, 2.7 W idle assumed",
    ),
}

_CELL_SOURCE = (
    "Shannon rate, 23 dBm, path loss 128.1 + 37.6 log10(d/km) dB, -174 dBm/Hz; LTE radio 1.2 W up, 0.8 W down"
)
LINKS: dict[str, LinkPreset] = {
    **{
        f"{mhz}mhz-{place}": LinkPreset(bandwidth_hz=mhz * 1e6, distance_m=metres, source=_CELL_SOURCE)
        for mhz in (1, 5, 20)
        for place, metres in (("100m", 100.0), ("500m", 500.0), ("1km", 1000.0))
    },
    "wifi": LinkPreset(
        bandwidth_hz=20e6, snr=100.0, fading=0.0, transmit_w=0.8, source="20 MHz at 20 dB assumed; radio 0.8 W"
    ),
    "perfect": LinkPreset(bandwidth_hz=math.inf, rtt_s=0.0, fading=0.0, source="no cost, by definition"),
}

EDGES: dict[str, EdgePreset] = {
    "h100-7b": EdgePreset(step_s=6.4e-3, source="SGLang, 7B-8B step, H100"),
    "vllm-7b": EdgePreset(step_s=14.3e-3, source="vLLM issue 8439"),
    "rtx3090-7b": EdgePreset(step_s=23e-3, source="22-24 ms, transformers PR 34156"),
    "a40-7b": EdgePreset(step_s=29.6e-3, source="vLLM PR 26504"),
}


def preset(device: str = "orin-nano-15w", link: str = "5mhz-500m-60ms", edge: str = "rtx3090-7b") -> System:
    """Build a system from three names; the defaults are the middle of the scenarios studied.

    Args:
        device: a key of `DEVICES`; `orin-nano-15w` runs Qwen2.5-0.5B, `orin-nano-15w:MODEL` another draft. Or a file
            that `write_device` wrote, its name with .json at the end.
        link: a key of `LINKS`; `-NNms` at its end sets the two-way delay, as in `5mhz-500m-140ms`.
        edge: a key of `EDGES`.

    Returns:
        The system.

    Raises:
        GelatoError: an unknown name, with the known ones; or a file that describes no device.
    """
    return System(device=device_preset(device), link=link_preset(link), edge=edge_preset(edge))


def device_preset(name: str) -> Device:
    """The device of that name; see `preset`."""
    entry = _read_device(Path(name)) if name.endswith(".json") else _known("device", name, DEVICES)
    token_s = 1.0 / entry.tokens_per_s
    return Device.create(token_s=token_s, token_j=entry.draft_w * token_s, idle_w=entry.idle_w)


def link_preset(name: str) -> Link:
    """The link of that name; see `preset`."""
    delay = re.fullmatch(r"(.+)-(\d+)ms", name)
    entry = _known("link", delay[1] if delay else name, LINKS)
    snr = entry.snr if entry.distance_m is None else cellular_snr(entry.bandwidth_hz, entry.distance_m)
    return Link.create(
        bandwidth_hz=entry.bandwidth_hz,
        snr=snr,
        rtt_s=int(delay[2]) / 1e3 if delay else entry.rtt_s,
        fading=entry.fading,
        transmit_w=entry.transmit_w,
        receive_w=entry.receive_w,
    )


def edge_preset(name: str) -> Edge:
    """The edge of that name; see `preset`."""
    return Edge.line(_known("edge", name, EDGES).step_s)


def local(
    *,
    draft_token_s: float,
    window_s: Mapping[int, float],
    padded: bool = True,
    prefill_token_s: float | None = None,
) -> System:
    """This machine as its own device and edge: measured times, no link, no energy.

    With it a controller without a power cap governs wall-clock time.

    Args:
        draft_token_s: seconds of one draft token at full depth; 0 where drafts are looked up.
        window_s: seconds of a verified window by its size, 1 among them.
        padded: as in `Edge.measured`.
        prefill_token_s: seconds of each token that the draft catches up with; the device's default if not given.

    Returns:
        The system.

    Raises:
        GelatoError: a time is negative or no number, or a window is missing.
    """
    if not draft_token_s >= 0:
        raise GelatoError(f"draft_token_s is {draft_token_s}, must be 0 or more")
    return System(
        device=Device.create(token_s=draft_token_s, token_j=0.0, idle_w=0.0, prefill_s=prefill_token_s),
        link=link_preset("perfect"),
        edge=Edge.measured(window_s, padded=padded),
    )


def write_device(path: Path, device: DevicePreset) -> None:
    """Write a device to a file that `preset` takes in place of a name.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, dataclasses.asdict(device))


def _read_device(path: Path) -> DevicePreset:
    fields = [field.name for field in dataclasses.fields(DevicePreset)]
    try:
        said = json.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        raise GelatoError(f"{path}: {error.strerror}") from None
    except ValueError:
        said = None
    if not isinstance(said, dict) or set(said) != {*fields}:
        raise GelatoError(
            f"{path}: no device; it must be JSON with {', '.join(fields)}, as `gelato bench power` writes"
        )
    for name in ("tokens_per_s", "draft_w", "idle_w"):
        value = said[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
            raise GelatoError(f"{path}: {name} is {value!r}, must be a number above 0")
    return DevicePreset(**{**said, "source": str(said["source"])})


def _known(kind: str, name: str, table: Mapping[str, _T]) -> _T:
    if name not in table:
        raise GelatoError(f"unknown {kind} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]
