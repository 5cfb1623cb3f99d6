"""The radio link between device and edge: Shannon rates, block fading, delay.

The fading of a coherence block is a pure function of the link's key and the block's number, so a
link has no hidden state and two runs that share a key meet the same channel at the same time.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_jax.keys import fading
from gelato_jax.types import number, record

TRANSMIT_DBM = 23.0  # 3GPP TR 36.814, power class 3 terminal
NOISE_DBM_PER_HZ = -174.0  # thermal noise at 290 K
PATH_LOSS_AT_1_KM_DB = 128.1  # 3GPP TR 36.814, macro cell at 2 GHz
PATH_LOSS_PER_DECADE_DB = 37.6  # the same
LTE_TRANSMIT_W = 1.2  # an LTE modem while it sends (an order of magnitude from the literature)
LTE_RECEIVE_W = 0.8  # the same, while it receives
COHERENCE_S = 0.1  # pedestrian speed; assumed
DEEPEST_FADE = 0.01  # power gain; assumed: a deeper fade is over before the transmission is


@record
class Channel:
    """The link as one round sees it; held for the whole round."""

    uplink_bps: Array  # []
    downlink_bps: Array  # []
    rtt_s: Array  # [] two-way


@record
class LinkState:
    """Where a link's clock stands, as a block and the time spent in it: exact after any run length."""

    key: Array  # random key of this link, see `keys`
    block: Array  # [] int32 coherence block
    phase_s: Array  # [] seconds since the block began, < coherence_s


@record
class Link:
    """A link in expectation; `observe` says how it is now."""

    bandwidth_hz: Array  # []
    snr: Array  # [] mean power ratio at the edge's receiver
    downlink_bandwidth_hz: Array  # []
    downlink_snr: Array  # [] mean power ratio at the device's receiver
    rtt_s: Array  # [] two-way propagation and queueing
    fading: Array  # [] 1: Rayleigh block fading; 0: none
    coherence_s: Array  # [] length of a fading block
    transmit_w: Array  # [] watts of the device's radio while it sends, on top of idle
    receive_w: Array  # [] watts of the device's radio while it receives, on top of idle

    @classmethod
    def create(
        cls,
        *,
        bandwidth_hz: ArrayLike,
        snr: ArrayLike,
        rtt_s: ArrayLike,
        downlink_bandwidth_hz: ArrayLike | None = None,
        downlink_snr: ArrayLike | None = None,
        fading: ArrayLike = 1.0,
        coherence_s: ArrayLike = COHERENCE_S,
        transmit_w: ArrayLike = LTE_TRANSMIT_W,
        receive_w: ArrayLike = LTE_RECEIVE_W,
    ) -> "Link":
        """Describe a link by bandwidth and mean signal-to-noise ratio.

        Args:
            bandwidth_hz: uplink bandwidth; `inf` makes transmission free.
            snr: mean power ratio (not dB) at the edge.
            rtt_s: two-way delay.
            downlink_bandwidth_hz: as the uplink's if not given (assumed).
            downlink_snr: as the uplink's if not given (assumed).
            fading: 1 for Rayleigh block fading, 0 for a constant channel.
            coherence_s: length of a fading block.
            transmit_w: the radio's watts while sending, on top of the device's idle power.
            receive_w: the radio's watts while receiving, on top of the device's idle power.

        Returns:
            The link, every number a float32 array.

        Raises:
            GelatoError: a number is out of its range.
        """
        down_hz = bandwidth_hz if downlink_bandwidth_hz is None else downlink_bandwidth_hz
        down_snr = snr if downlink_snr is None else downlink_snr
        return cls(
            bandwidth_hz=number("bandwidth_hz", bandwidth_hz, low=0.0, finite=False),
            snr=number("snr", snr, low=0.0),
            downlink_bandwidth_hz=number("downlink_bandwidth_hz", down_hz, low=0.0, finite=False),
            downlink_snr=number("downlink_snr", down_snr, low=0.0),
            rtt_s=number("rtt_s", rtt_s, low=0.0),
            fading=number("fading", fading, low=0.0, high=1.0),
            coherence_s=number("coherence_s", coherence_s, low=1e-4),
            transmit_w=number("transmit_w", transmit_w, low=0.0),
            receive_w=number("receive_w", receive_w, low=0.0),
        )

    def init(self, key: Array) -> LinkState:
        """The link at time zero."""
        return LinkState(key=key, block=jnp.zeros((), jnp.int32), phase_s=jnp.zeros((), jnp.float32))

    def observe(self, state: LinkState) -> Channel:
        """The channel now: capacity B log2(1 + gain * snr), the gain Exp(1) in each block (Rayleigh).

        Up- and downlink share the gain (reciprocity, assumed).
        """
        drawn = fading(state.key, state.block)
        return self.channel(1.0 + self.fading * (jnp.maximum(drawn, DEEPEST_FADE) - 1.0))

    def channel(self, gain: Array | float = 1.0) -> Channel:
        """The channel at a given power gain; 1 is the mean."""
        return Channel(
            uplink_bps=self.bandwidth_hz * jnp.log2(1.0 + gain * self.snr),
            downlink_bps=self.downlink_bandwidth_hz * jnp.log2(1.0 + gain * self.downlink_snr),
            rtt_s=self.rtt_s,
        )

    def advance(self, state: LinkState, seconds: Array) -> LinkState:
        """The link `seconds` later."""
        phase_s = state.phase_s + seconds
        blocks = jnp.floor(phase_s / self.coherence_s)
        phase_s = jnp.maximum(phase_s - blocks * self.coherence_s, 0.0)
        return LinkState(key=state.key, block=state.block + blocks.astype(jnp.int32), phase_s=phase_s)


def cellular_snr(bandwidth_hz: ArrayLike, distance_m: ArrayLike, shadowing_db: ArrayLike = 0.0) -> Array:
    """Mean signal-to-noise ratio of a macro cell: 23 dBm, path loss 128.1 + 37.6 log10(d / km) dB, -174 dBm/Hz.

    Args:
        bandwidth_hz: noise is collected over it.
        distance_m: device to base station.
        shadowing_db: extra loss; a draw of N(0, 8 dB) for a random place (3GPP TR 36.814).

    Returns:
        The power ratio, not dB.
    """
    distance_km = jnp.asarray(distance_m, jnp.float32) / 1e3
    loss_db = PATH_LOSS_AT_1_KM_DB + PATH_LOSS_PER_DECADE_DB * jnp.log10(distance_km) + shadowing_db
    noise_dbm = NOISE_DBM_PER_HZ + 10.0 * jnp.log10(jnp.asarray(bandwidth_hz, jnp.float32))
    return 10.0 ** ((TRANSMIT_DBM - loss_db - noise_dbm) / 10.0)
