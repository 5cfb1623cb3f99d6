"""The physical world of a row: device energy, radio link, edge time.

Everything describes one row in scalars, is pure and jittable, and takes its numbers as arrays:
`vmap` it over rows, sweep any number without recompiling.
"""

from gelato_jax.system.cost import System
from gelato_jax.system.device import Device
from gelato_jax.system.edge import Edge
from gelato_jax.system.link import Channel, Link, LinkState, cellular_snr
from gelato_jax.system.presets import (
    DEVICES,
    EDGES,
    LINKS,
    DevicePreset,
    device_preset,
    edge_preset,
    link_preset,
    local,
    preset,
    write_device,
)

__all__ = [
    "DEVICES",
    "EDGES",
    "LINKS",
    "Channel",
    "Device",
    "DevicePreset",
    "Edge",
    "Link",
    "LinkState",
    "System",
    "cellular_snr",
    "device_preset",
    "edge_preset",
    "link_preset",
    "local",
    "preset",
    "write_device",
]
