"""`gelato presets`: the devices, links and edges that can be modelled, with their sources."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presets:
    """List the devices, links and edges for --device, --link and --edge, with the source of their numbers."""

    def run(self) -> int:
        """Print the three tables."""
        from gelato_jax import system

        for title, table, figures in (
            ("devices (--device)", system.DEVICES, _device),
            ("links (--link; -NNms at the end sets the two-way delay)", system.LINKS, _link),
            ("edges (--edge)", system.EDGES, _edge),
        ):
            print(title)
            source = None
            width = max(map(len, table))
            for name, entry in table.items():
                if entry.source != source:
                    print(f"  # {entry.source}")
                source = entry.source
                print(f"  {name.ljust(width)}  {figures(entry)}")
            print()
        return 0


def _device(entry: Any) -> str:
    return f"{entry.tokens_per_s:6.1f} tokens/s  {entry.draft_w:5.2f} W drafting  {entry.idle_w:4.1f} W idle"


def _link(entry: Any) -> str:
    place = "" if entry.distance_m is None else f"  {entry.distance_m:5.0f} m"
    return (
        f"{entry.bandwidth_hz / 1e6:6.1f} MHz{place}  {entry.rtt_s * 1e3:3.0f} ms two-way  "
        f"{entry.transmit_w:.1f} W up  {entry.receive_w:.1f} W down"
    )


def _edge(entry: Any) -> str:
    return f"{entry.step_s * 1e3:5.1f} ms a step"
