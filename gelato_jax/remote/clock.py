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

    Args:
        preset: the system whose delay and edge times are replaced.
    """

    def __init__(self, preset: System) -> None:
        """Nothing seen yet."""
        self._preset = preset
        mean = preset.link.channel()
        self._rates = float(mean.uplink_bps), float(mean.downlink_bps)
        self._window_s = np.asarray(preset.edge.window_s)
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

    @property
    def system(self) -> System:
        """The system as the clock knows it: the preset, before anything was seen."""
        if self.delay_s is None or self.edge_factor is None:
            return self._preset
        edge, factor = self._preset.edge, np.float32(self.edge_factor)
        edge = dataclasses.replace(edge, window_s=edge.window_s * factor, token_s=edge.token_s * factor)
        link = dataclasses.replace(self._preset.link, rtt_s=jnp.asarray(self.delay_s, jnp.float32))
        return dataclasses.replace(self._preset, link=link, edge=edge)

    def see(self, *, drafted: int, passes: int, network_s: float, edge_s: float, bits: tuple[int, int]) -> None:
        """Take a round in.

        Args:
            drafted: tokens, at most 32.
            passes: of the target: one, or one for each streamed token.
            network_s: of its wait, without the edge's own time.
            edge_s: that time, as the edge says: waiting for a turn, and the pass.
            bits: of the messages up and down.
        """
        sending_s = sum(count / rate for count, rate in zip(bits, self._rates, strict=True))
        self._delays.append(max(network_s - sending_s, 0.0))
        self._factors.append(edge_s / (passes * float(self._window_s[drafted + 1])))
