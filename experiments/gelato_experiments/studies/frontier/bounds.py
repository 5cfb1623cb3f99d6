"""From a simulated world to what the oracles take: states, tables of rounds, and costs by draft length.

A controller sees the channel's rate and its acceptance estimate before a round. Both are binned; in each bin the
tokens, seconds and joules of every draft length follow from the rounds that a policy met there, for a recording
says how many of all G drafts would have been accepted, whatever was sent.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gelato_experiments.oracles import RoundCosts
from gelato_jax import simulation
from gelato_jax.decoding.records import Setup
from gelato_jax.simulation import Recording
from gelato_jax.system import Channel


class Rounds(NamedTuple):
    """Rounds that devices met, M of them."""

    uplink_bps: np.ndarray  # [M]
    estimate: np.ndarray  # [M] the controller's estimate: rejections relative to the calibration's
    text: np.ndarray  # [M] row of the recording
    position: np.ndarray  # [M] of the round in the text
    accepted: np.ndarray  # [M] of G drafts, those that would be, whatever was sent


class States(NamedTuple):
    """States of rounds, and what every draft length would give in them: what `oracles.round_level.solve` takes."""

    probability: np.ndarray  # [W]
    tokens: np.ndarray  # [W, G + 1]
    seconds: np.ndarray  # [W, G + 1]
    joules: np.ndarray  # [W, G + 1]


def met_rounds(recording: Recording, terms: Setup, *, devices: int, rounds: int, seed: int) -> Rounds:
    """The rounds that devices meet under a policy, all devices in one list."""
    result = simulation.simulate(
        recording, [terms], devices=devices, rounds=rounds, warmup=rounds // 4, seed=seed, history=True
    )
    history = result.history
    assert history is not None
    seen = history.seen
    position = recording.rollouts.limit[history.text] - seen.remaining
    flat = lambda leaf: np.asarray(leaf[0]).reshape(-1)  # noqa: E731
    return Rounds(*map(flat, (seen.uplink_bps, seen.rejection_level, history.text, position, history.acceptable)))


def quantile_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Inner edges of `bins` bins of equal counts; fewer where values repeat."""
    return np.unique(np.quantile(values, np.arange(1, bins) / bins))


def bin_of(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Bin of each value: the number of edges below it."""
    return np.searchsorted(edges, values, side="left")


def tabulate(rounds: Rounds, state: np.ndarray, states: int, terms: Setup, max_draft_length: int) -> States:
    """Average the rounds of each state, for every draft length.

    Args:
        rounds: M of them.
        state: `[M]` state of each, 0..states - 1.
        states: W; one that no round met is of chance 0.
        terms: the world.
        max_draft_length: G.
    """
    lengths = np.arange(max_draft_length + 1)
    accepted = np.minimum(rounds.accepted[:, None], lengths)
    seconds, joules = _costs(rounds, lengths, accepted, terms)
    counts = np.bincount(state, minlength=states)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.stack([np.bincount(state, column, minlength=states) for column in values.T], axis=1)
        return sums / np.maximum(counts, 1)[:, None] + np.where(counts[:, None] > 0, 0.0, values.mean(axis=0))

    return States(counts / counts.sum(), mean(accepted + 1.0), mean(seconds), mean(joules))


def _costs(rounds: Rounds, lengths: np.ndarray, accepted: np.ndarray, terms: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and joules `[M, G + 1]` of every draft length in every round.

    A bonus token is caught up with in the next round that drafts; here its own round pays. A round without drafts
    pays nothing for its token, so that an oracle stays a bound. A residual takes one candidate.
    """
    payload, link = terms.policy.payload, terms.system.link
    rejected = jnp.asarray(accepted < lengths)
    uplink = jnp.asarray(rounds.uplink_bps)[:, None]
    # Up- and downlink share the gain: the rates keep the ratio of the mean channel only where bandwidths agree.
    gain = (2.0 ** (uplink / link.bandwidth_hz) - 1.0) / link.snr
    downlink = link.downlink_bandwidth_hz * jnp.log2(1.0 + gain * link.downlink_snr)
    count = jnp.asarray(lengths, jnp.float32)
    cost = terms.system.round_cost(
        Channel(uplink_bps=uplink, downlink_bps=downlink, rtt_s=link.rtt_s),
        draft_work=count * terms.work[-1],
        catch_up_tokens=jnp.asarray((accepted == lengths) & (lengths > 0), jnp.float32),
        uplink_bits=payload.uplink_bits(terms.vocabularies, drafted=count, support=count),
        downlink_bits=payload.downlink_bits(terms.vocabularies, rejected=rejected),
        window=jnp.asarray(lengths) + 1,
    )
    full = lambda values: np.broadcast_to(np.asarray(values, np.float64), accepted.shape)  # noqa: E731
    return full(cost.time_s), full(cost.energy_j)


def round_costs(uplink_bps: np.ndarray, terms: Setup, max_draft_length: int) -> RoundCosts:
    """Costs at each rate, as the entropy-stopping and the clairvoyant oracle take them.

    Args:
        uplink_bps: `[W]` rates.
        terms: the world.
        max_draft_length: G.
    """
    size, lengths = len(uplink_bps), np.arange(max_draft_length + 1)
    nothing = np.zeros(size)
    rounds = Rounds(np.asarray(uplink_bps), *[nothing] * 4)
    accepted = _costs(rounds, lengths, np.broadcast_to(lengths, (size, len(lengths))), terms)
    rejected = _costs(rounds, lengths, np.full((size, len(lengths)), -1), terms)
    seconds, joules = accepted
    return RoundCosts(
        base_s=seconds[:, 0],
        base_j=joules[:, 0],
        token_s=np.diff(seconds, axis=1),
        token_j=np.diff(joules, axis=1),
        reject_s=(rejected[0] - seconds)[:, -1],
        reject_j=(rejected[1] - joules)[:, -1],
        full_s=nothing,
        full_j=nothing,
    )


def binned_rates(rounds: Rounds, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Chance and rate of `bins` bins of the channel: the rate at which a bit takes the bin's mean time."""
    state = bin_of(quantile_edges(rounds.uplink_bps, bins), rounds.uplink_bps)
    counts = np.bincount(state)
    return counts / counts.sum(), counts / np.bincount(state, 1.0 / rounds.uplink_bps)
