"""A world in which the round-level linear program is exact: independent rounds, finitely many states, known acceptance.

Theorems about drift-plus-penalty rules speak of such worlds. Three things of the default scenario are changed for
it: the channel has finitely many gains, drawn afresh in every round; catching up is free, so that a round leaves
nothing behind; the acceptance estimate stays at the truth.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gelato_experiments.oracles import EntropyModel, round_level
from gelato_experiments.synthetic import synthetic_recording
from gelato_jax import payloads, simulation, system
from gelato_jax.control import Controller, Estimator, depth_exits, draft_sampling, length_exits
from gelato_jax.decoding import Policy
from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Environment, Recording, Simulation
from gelato_jax.system.link import DEEPEST_FADE
from gelato_jax.types import AcceptanceForecast

TEXT_POSITIONS = 1 << 16
"""Rounds at the end of a text may emit less than they accepted: texts are long, so that this is rare."""


class Tables(NamedTuple):
    """What `round_level.solve` takes, `[W]` and `[W, G + 1]`; joules and seconds are exact, tokens are means."""

    probability: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    joules: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactWorld:
    """The world, and its tables.

    Attributes:
        recording: one class of entropy: every draft is accepted with the same chance.
        environment: modes that are the channel's states.
        system: device, link, edge.
        tables: of every state and draft length.
    """

    recording: Recording
    environment: Environment
    system: system.System
    tables: Tables

    def optimum(self, cap_w: float) -> round_level.RoundLevelOptimum:
        """The best stationary policy under a cap."""
        return round_level.solve(*self.tables, power_cap_w=cap_w)

    def setup(self, controller: Controller) -> Setup:
        """A controller's lengths alone in this world."""
        return simulation.make_setup(self.recording, lengths_alone(controller, payload()), self.system)

    def simulate(self, controllers: list[Controller], **size: Any) -> Simulation:
        """Simulate controllers of one structure."""
        settings = [self.setup(controller) for controller in controllers]
        return simulation.simulate(self.recording, settings, environment=self.environment, **size)

    def overspent(self, cap_w: float) -> np.ndarray:
        """`[W, G + 1]` joules by which a round exceeds the cap, E - Pbar T."""
        return self.tables.joules - cap_w * self.tables.seconds


def payload() -> payloads.Payload:
    """Two bits of each entry of q: it draws at the edge, so a round's cost does not depend on what is accepted."""
    return payloads.quantized(2)


def certain() -> Estimator:
    """An estimator that stays at its prior."""
    return Estimator.create(discount=0.0, prior_strength=1e6)


def lengths_alone(controller: Controller, payload: payloads.Payload) -> Policy:
    """A policy whose controller alone decides."""
    return Policy(
        controller=controller,
        length_exit=length_exits.none(),
        depth_exit=depth_exits.fixed(),
        draft_sampling=draft_sampling.fixed(),
        payload=payload,
    )


def build(
    world: system.System,
    *,
    states: int,
    acceptance: float,
    max_draft_length: int,
    vocab_size: int,
    positions: int = TEXT_POSITIONS,
    delays: Sequence[float] = (1.0,),
) -> ExactWorld:
    """Make the exact world that is next to a given one.

    Args:
        world: device, link, edge.
        states: W, bins of equal chance of the fading gain, each at its median.
        acceptance: of every draft.
        max_draft_length: G.
        vocab_size: ids and entries of q that bits are counted over.
        positions: of the one text.
        delays: factors on the round-trip delay that the states have in turn.
    """
    link, device = world.link, world.device
    nothing = jnp.zeros(())
    world = dataclasses.replace(
        world,
        link=dataclasses.replace(link, fading=nothing),
        device=dataclasses.replace(device, prefill_s=nothing, prefill_j=nothing),
    )
    gain = np.maximum(-np.log1p(-(np.arange(states) + 0.5) / states), DEEPEST_FADE)
    snr = float(link.snr)
    factors = np.log2(1.0 + gain * snr) / np.log2(1.0 + snr)
    model = EntropyModel(initial=np.ones(1), transition=np.ones((1, 1)), acceptance=np.array([acceptance]))
    recording = synthetic_recording(
        model, texts=1, positions=positions, max_draft_length=max_draft_length, vocab_size=vocab_size
    )
    chances = np.full((states, states), 1.0 / states)
    environment = Environment.create(
        chances.tolist(), bandwidth=factors.tolist(), rtt=np.resize(np.asarray(delays), states).tolist()
    )
    return ExactWorld(
        recording=recording,
        environment=environment,
        system=world,
        tables=_tables(recording, world, environment, acceptance),
    )


def _tables(recording: Recording, world: system.System, environment: Environment, acceptance: float) -> Tables:
    """Costs as the simulated devices count them, tokens in double precision."""
    size = recording.max_draft_length

    def cost_table(rate: jax.Array, delay: jax.Array) -> Any:
        channel = world.link.channel()
        channel = system.Channel(
            uplink_bps=channel.uplink_bps * rate,
            downlink_bps=channel.downlink_bps * rate,
            rtt_s=channel.rtt_s * delay,
        )
        return world.cost_table(
            channel,
            payload(),
            recording.vocabularies,
            work=1.0,
            catch_up=0.0,
            acceptance=AcceptanceForecast.independent(acceptance, size),
            support=1.0,
        )

    found = jax.vmap(cost_table)(environment.bandwidth, environment.rtt)
    states = len(environment.bandwidth)
    tokens = np.cumsum(acceptance ** np.arange(size + 1.0))
    return Tables(
        probability=np.full(states, 1.0 / states),
        tokens=np.tile(tokens, (states, 1)),
        seconds=np.asarray(found.time_s, np.float64),
        joules=np.asarray(found.energy_j, np.float64),
    )
