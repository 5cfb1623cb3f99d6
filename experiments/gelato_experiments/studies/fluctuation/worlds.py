"""The worlds of `fluctuation`: how link, device, meter and beliefs depart from the calm one."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Environment

MODES = 3
"""Of every environment, so that all are one program."""

Change = Callable[[Setup], Setup]


def _same(terms: Setup) -> Setup:
    return terms


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A world.

    Attributes:
        name: in tables.
        kind: `calm`, `link`, `device`, `belief` or `meter`.
        environment: how it changes from round to round; None: it does not.
        actual: from the calm world's terms to this one's.
        believed: from this world's terms to what the device takes them for.
        meter: joules shown for a joule spent; all of the device's constants and measurements are so.
    """

    name: str
    kind: str
    environment: Callable[[], Environment] | None = None
    actual: Change = _same
    believed: Change = _same
    meter: float = 1.0


def still() -> Environment:
    """An environment that never leaves its first mode."""
    return _chain([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


def _chain(transition: list[list[float]], **factors: list[float] | bool) -> Environment:
    return Environment.create(transition, **factors)  # pyright: ignore[reportArgumentType]


def _two(enter: float, leave: float, **factors: tuple[float, float] | bool) -> Environment:
    """A chain of two modes; the third is never met."""
    chances = [[1 - enter, enter, 0.0], [leave, 1 - leave, 0.0], [1.0, 0.0, 0.0]]
    padded = {name: value if isinstance(value, bool) else [*value, 1.0] for name, value in factors.items()}
    return _chain(chances, **padded)


def _sticky(**factors: list[float]) -> Environment:
    """Three modes, 20 rounds each on average."""
    stay, move = 0.95, 0.025
    return _chain([[stay, move, move], [move, stay, move], [move, move, stay]], **factors)


def _link(**numbers: float) -> Change:
    def change(terms: Setup) -> Setup:
        values = {name: jnp.float32(value) for name, value in numbers.items()}
        system = dataclasses.replace(terms.system, link=dataclasses.replace(terms.system.link, **values))
        return dataclasses.replace(terms, system=system)

    return change


calm: Change = _link(fading=0.0)
"""From a preset to the calm world: the channel stays at its mean."""


def _device(*, seconds: float = 1.0, joules: float = 1.0) -> Change:
    """Another speed and energy of drafting."""

    def change(terms: Setup) -> Setup:
        device = terms.system.device.scaled(seconds, joules)
        return dataclasses.replace(terms, system=dataclasses.replace(terms.system, device=device))

    return change


def _metered(factor: float) -> Change:
    """Every joule of the world counts as `factor` of one."""

    def change(terms: Setup) -> Setup:
        terms = _device(joules=factor)(terms)
        device, link = terms.system.device, terms.system.link
        device = dataclasses.replace(device, idle_w=device.idle_w * factor)
        link = dataclasses.replace(link, transmit_w=link.transmit_w * factor, receive_w=link.receive_w * factor)
        return dataclasses.replace(terms, system=dataclasses.replace(terms.system, device=device, link=link))

    return change


def _prior(mean: float) -> Change:
    """An estimate that starts at, and forgets towards, another acceptance."""

    def change(terms: Setup) -> Setup:
        return _calibrated(
            terms,
            mean_acceptance=jnp.float32(mean),
            conditional_acceptance=jnp.full_like(terms.calibration.conditional_acceptance, mean),
        )

    return change


def _flat(terms: Setup) -> Setup:
    """A calibration that sees nothing in the entropy."""
    found = terms.calibration
    return _calibrated(
        terms,
        scale=jnp.full_like(found.scale, found.mean_acceptance),
        decay=jnp.zeros_like(found.decay),
        next_acceptance=jnp.full_like(found.next_acceptance, found.mean_acceptance),
    )


def _steep(terms: Setup) -> Setup:
    """A calibration that trusts entropy three times too much."""
    found = terms.calibration
    return _calibrated(terms, decay=3.0 * found.decay, next_acceptance=found.next_acceptance**3)


def _calibrated(terms: Setup, **tables: jax.Array) -> Setup:
    return dataclasses.replace(terms, calibration=dataclasses.replace(terms.calibration, **tables))


WORLDS: tuple[World, ...] = (
    World(name="calm", kind="calm"),
    World(name="fading, 20 ms", kind="link", actual=_link(fading=1.0, coherence_s=0.02)),
    World(name="fading, 1 s", kind="link", actual=_link(fading=1.0, coherence_s=1.0)),
    World(name="bandwidth x2, x0.5, x0.1", kind="link", environment=lambda: _sticky(bandwidth=[2.0, 0.5, 0.1])),
    World(name="outages, x0.01", kind="link", environment=lambda: _two(0.01, 0.1, bandwidth=(1.0, 0.01))),
    World(name="delay 20 ms", kind="link", actual=_link(rtt_s=0.02)),
    World(name="delay 140 ms", kind="link", actual=_link(rtt_s=0.14)),
    World(name="delay x1/3, x1, x7/3", kind="link", environment=lambda: _sticky(rtt=[1 / 3, 1.0, 7 / 3])),
    World(name="delay spikes, x5", kind="link", environment=lambda: _two(0.05, 0.5, rtt=(1.0, 5.0))),
    World(
        name="throttling, known",
        kind="device",
        environment=lambda: _two(0.01, 0.01, token_s=(1.0, 2.0), token_j=(1.0, 1.2)),  # at 0.6 of the power
    ),
    World(
        name="throttling, unknown",
        kind="device",
        environment=lambda: _two(0.01, 0.01, token_s=(1.0, 2.0), token_j=(1.0, 1.2), observed=False),
    ),
    World(name="believes joules x0.5", kind="belief", believed=_device(joules=0.5)),
    World(name="believes joules x2", kind="belief", believed=_device(joules=2.0)),
    World(name="believes seconds x0.5", kind="belief", believed=_device(seconds=0.5)),
    World(name="believes seconds x2", kind="belief", believed=_device(seconds=2.0)),
    World(name="alpha(H) flat", kind="belief", believed=_flat),
    World(name="alpha(H) too steep", kind="belief", believed=_steep),
    World(name="prior acceptance 0.95", kind="belief", believed=_prior(0.95)),
    World(name="prior acceptance 0.1", kind="belief", believed=_prior(0.1)),
    World(name="meter shows half", kind="meter", actual=_metered(0.5), meter=0.5),
    World(name="meter shows double", kind="meter", actual=_metered(2.0), meter=2.0),
)
"""The calm one first. All numbers are assumed; chances are by round."""
