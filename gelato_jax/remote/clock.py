"""What a device measures in place of presets: the network's delay, how long passes take at the edge, its own joules."""

import dataclasses
import statistics
import time
from collections import deque
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from gelato_jax.meter import Meter
from gelato_jax.system import System
from gelato_jax.types import RoundCost

_RECENT = 9
"""Rounds whose medians count: a burst of delay moves nothing, an edge that gets busy is noticed in five rounds."""
_METERED_S = 5.0
"""Whose joules count: many ticks of a counter, the slowest of which move some ten times a second."""
_LEAST_METERED_S = 1.0
"""Before so long, the preset's count."""


class Clock:
    """Medians of the last rounds of one edge, and joules of the last seconds; requests may share it.

    The delay is what is left of a round's wait without the edge's own time and the bits' time at the mean rates
    of the link, which stay the preset's. Passes are the preset's times a factor, its shape over windows stays, too;
    and so are the device's joules, where there is a meter: the radio's stay the preset's unless the meter sees it.

    Args:
        preset: the system whose delay, edge times and joules are replaced.
        meter: of this machine, or None: joules stay the preset's.
        now: seconds.
    """

    def __init__(
        self, preset: System, meter: Meter | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing seen yet."""
        self.meter = meter
        self._now = now
        self._sums: deque[tuple[float, float, float]] = deque()  # seconds, joules metered, and by the preset: in all
        self._preset_j = self._rested_j = 0.0
        self._counted_j = 0.0 if meter is None else meter.joules()
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
    def device_factor(self) -> float | None:
        """Of the preset's joules; None without a meter, and until it has counted for a second."""
        if len(self._sums) < 2:
            return None
        (since_s, since_j, since_preset_j), (now_s, now_j, now_preset_j) = self._sums[0], self._sums[-1]
        if now_s - since_s < _LEAST_METERED_S or now_preset_j <= since_preset_j:
            return None
        return (now_j - since_j) / (now_preset_j - since_preset_j)

    @property
    def system(self) -> System:
        """The system as the clock knows it: the preset, before anything was seen."""
        system = self._preset
        if self.device_factor is not None:
            system = self._metered(system, np.float32(self.device_factor))
        if self.delay_s is None or self.edge_factor is None:
            return system
        edge, factor = self._preset.edge, np.float32(self.edge_factor)
        edge = dataclasses.replace(edge, window_s=edge.window_s * factor, token_s=edge.token_s * factor)
        link = dataclasses.replace(system.link, rtt_s=jnp.asarray(self.delay_s, jnp.float32))
        return dataclasses.replace(system, link=link, edge=edge)

    def _metered(self, system: System, factor: np.float32) -> System:
        device = system.device.scaled(joules=factor)
        device, link = dataclasses.replace(device, idle_w=device.idle_w * factor), system.link
        if self.meter is not None and self.meter.whole:
            watts = {name: getattr(link, name) * factor for name in ("transmit_w", "receive_w")}
            link = dataclasses.replace(link, **watts)
        return dataclasses.replace(system, device=device, link=link)

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

    def rest(self) -> None:
        """What the meter has counted since the last round is no round's: an answer begins."""
        if self.meter is not None:
            before_j, self._counted_j = self._counted_j, self.meter.joules()
            self._rested_j += self._counted_j - before_j

    def pay(self, cost: RoundCost) -> float:
        """Take in what a round cost by `system`, as the meter has counted meanwhile: its joules, measured."""
        if self.meter is None:
            return 0.0
        parts = [cost.draft_j, cost.catch_up_j, cost.idle_j]
        parts += [cost.transmit_j, cost.receive_j] if self.meter.whole else []
        self._preset_j += float(np.sum(parts)) / (self.device_factor or 1.0)
        before_j, self._counted_j = self._counted_j, self.meter.joules()
        self._sums.append((self._now(), self._counted_j - self._rested_j, self._preset_j))
        while len(self._sums) > 2 and self._sums[-1][0] - self._sums[1][0] >= _METERED_S:
            self._sums.popleft()
        return self._counted_j - before_j
