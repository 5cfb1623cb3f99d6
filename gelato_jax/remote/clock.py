"""What a device's clock says of its edge, in place of presets: the network's delay, and how long passes take there."""

import dataclasses
import statistics
from collections import deque

import jax.numpy as jnp
import numpy as np

from gelato_jax.system import System

_RECENT = 9
"""Rounds whose medians count: a burst of delay moves nothing, an edge that gets busy is noticed in five rounds."""


class Clock:
    """Medians of the last rounds of one edge; requests may share it.

    The delay is what is left of a round's wait without the edge's own time and the bits' time at the mean rates
    of the link, which stay the preset's. Passes are the preset's times a factor, its shape over windows stays, too.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._delays: deque[float] = deque(maxlen=_RECENT)
        self._factors: deque[float] = deque(maxlen=_RECENT)

    @property
    def delay_s(self) -> float | None:
        """Of a round trip; None before the first."""
        return statistics.median_low(self._delays) if self._delays else None

    @property
    def edge_factor(self) -> float | None:
        """Of the preset's seconds; None before the first."""
        return statistics.median_low(self._factors) if self._factors else None

    def see(
        self, preset: System, *, drafted: int, passes: int, network_s: float, edge_s: float, bits: tuple[int, int]
    ) -> None:
        """Take a round in.

        Args:
            preset: the system whose numbers are replaced.
            drafted: tokens.
            passes: of the target: one, or one for each streamed token.
            network_s: of its wait, without the edge's own time.
            edge_s: that time, as the edge says: waiting for a turn, and the pass.
            bits: of the messages up and down.
        """
        mean = preset.link.channel()
        sending_s = bits[0] / float(mean.uplink_bps) + bits[1] / float(mean.downlink_bps)
        expected_s = passes * float(preset.edge.verify_s(jnp.asarray(drafted + 1)))
        self._delays.append(max(network_s - sending_s, 0.0))
        self._factors.append(edge_s / expected_s)

    def adjust(self, preset: System) -> System:
        """The system as the clock knows it; as it is, before anything was seen."""
        if self.delay_s is None or self.edge_factor is None:
            return preset
        factor = np.float32(self.edge_factor)
        edge = dataclasses.replace(
            preset.edge, window_s=preset.edge.window_s * factor, token_s=preset.edge.token_s * factor
        )
        link = dataclasses.replace(preset.link, rtt_s=jnp.asarray(self.delay_s, jnp.float32))
        return dataclasses.replace(preset, link=link, edge=edge)
