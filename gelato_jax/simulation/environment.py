"""A world that changes while devices run: modes of a Markov chain that scale the link's and the device's numbers.

Outages and delay spikes of a link, and a device that throttles, are all chains of a few modes. What the link
is like in a round is observed (its rate and delay); that the device is slower may be known to it or not.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax import keys
from gelato_jax.decoding.records import Setup
from gelato_jax.errors import GelatoError
from gelato_jax.types import number, record


@record
class Environment:
    """K modes; a device begins in mode 0, and may change before every round."""

    transition: Array  # [K, K] cumulative chances by row
    bandwidth: Array  # [K] factors, both directions
    rtt: Array  # [K] factors
    token_s: Array  # [K] factors on the device's seconds a token
    token_j: Array  # [K] factors on its joules a token
    observed: Array  # [] bool: the device knows its own mode

    @classmethod
    def create(
        cls,
        transition: Sequence[Sequence[float]],
        *,
        bandwidth: Sequence[float] | None = None,
        rtt: Sequence[float] | None = None,
        token_s: Sequence[float] | None = None,
        token_j: Sequence[float] | None = None,
        observed: bool = True,
    ) -> "Environment":
        """Describe a chain; factors that are not given are 1.

        Args:
            transition: `[K, K]` chance of each mode in the next round, by the mode of this one.
            bandwidth: `[K]` factors.
            rtt: `[K]` factors.
            token_s: `[K]` factors.
            token_j: `[K]` factors.
            observed: whether the device's plans use its mode.

        Raises:
            GelatoError: a row of the chances does not sum to 1, or a list has another length or a factor <= 0.
        """
        chances = np.asarray(transition, np.float64)
        modes = len(chances)
        if chances.shape != (modes, modes) or (chances < 0).any() or not np.allclose(chances.sum(axis=1), 1.0):
            raise GelatoError(f"transition {transition} must be square, with rows of chances that sum to 1")

        def factors(name: str, values: Sequence[float] | None) -> Array:
            values = [1.0] * modes if values is None else values
            if len(values) != modes or min(values) <= 0:
                raise GelatoError(f"{name} {values} must be {modes} positive factors, one for each mode")
            return jnp.asarray(values, jnp.float32)

        return cls(
            transition=jnp.asarray(np.cumsum(chances, axis=1), jnp.float32),
            bandwidth=factors("bandwidth", bandwidth),
            rtt=factors("rtt", rtt),
            token_s=factors("token_s", token_s),
            token_j=factors("token_j", token_j),
            observed=number("observed", observed, dtype=jnp.bool_),
        )

    def next_mode(self, key: Array, round: Array, mode: Array) -> Array:
        """The mode of the next round, [] int32."""
        uniform = keys.environment_uniform(key, round)
        return jnp.sum(uniform >= self.transition[mode, :-1]).astype(jnp.int32)

    def actual(self, setup: Setup, mode: Array) -> Setup:
        """The world in a mode."""
        link = dataclasses.replace(
            setup.system.link,
            bandwidth_hz=setup.system.link.bandwidth_hz * self.bandwidth[mode],
            downlink_bandwidth_hz=setup.system.link.downlink_bandwidth_hz * self.bandwidth[mode],
            rtt_s=setup.system.link.rtt_s * self.rtt[mode],
        )
        system = dataclasses.replace(setup.system, link=link)
        return self._computing(dataclasses.replace(setup, system=system), self.token_s[mode], self.token_j[mode])

    def believed(self, setup: Setup, mode: Array) -> Setup:
        """The world as a device plans with it in a mode."""
        seen = lambda factors: jnp.where(self.observed, factors[mode], 1.0)  # noqa: E731
        return self._computing(setup, seen(self.token_s), seen(self.token_j))

    def _computing(self, setup: Setup, seconds: Array, joules: Array) -> Setup:
        device = setup.system.device.scaled(seconds, joules)
        return dataclasses.replace(setup, system=dataclasses.replace(setup.system, device=device))
