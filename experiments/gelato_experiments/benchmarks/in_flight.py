"""`python -m gelato_experiments.benchmarks.in_flight`: what a device gains that drafts on while an answer is under way.

From its own guess of the outcome: all drafts accepted, and the token after them the draft's likeliest. Where the guess
is right the next round's drafts are there already; where it is wrong their joules are lost. Positions of a recording,
in expectation: rounds of G drafts, each as likely as any; a device that drafts on does so where the entropies of its
drafts promise a right guess with a chance of at least a threshold. Time sharing of two ways is a way as well.
"""

import dataclasses
import json
import sys
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tyro.conf import arg

from gelato_experiments.inputs import read_recording
from gelato_jax import system
from gelato_jax.control import acceptance_at
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import candidates
from gelato_jax.simulation.recording import Recording
from gelato_jax.system import System
from gelato_jax.types import AcceptanceForecast

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Way(NamedTuple):
    """A way of drafting, on the mean over rounds."""

    drafts: int
    threshold: float | None  # None: it does not draft on
    tokens: float  # of a round
    seconds: float
    joules: float


def survivals(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Chance that the first g drafts are accepted, `[positions, G + 1]`, and what entropies promise of it."""
    rollouts = recording.rollouts
    chance, entropy = (np.asarray(leaf)[:, :, -1] for leaf in (rollouts.chance, rollouts.entropy))
    there = np.arange(chance.shape[1]) < np.asarray(rollouts.positions)[:, None]
    chance, entropy = chance[there], jnp.asarray(entropy[there])
    deepest = jnp.int32(np.asarray(rollouts.chance).shape[2] - 1)
    says = jax.vmap(jax.vmap(lambda nats: acceptance_at(recording.calibration, nats, deepest, 1.0)))(entropy)
    return tuple(  # type: ignore[return-value]
        np.concatenate([np.ones((len(rates), 1)), np.cumprod(rates, axis=1)], axis=1)
        for rates in (chance, np.asarray(says))
    )


def ways(recording: Recording, world: System) -> list[Way]:
    """Every length, without and with drafting on; what rounds cost is the cost model's expectation."""
    true, promised = survivals(recording)
    survival = true.mean(axis=0)
    forecast = AcceptanceForecast(rate=jnp.float32(survival[1]), survival=jnp.asarray(survival, jnp.float32))
    costs = world.cost_table(
        world.link.channel(), candidates(32), recording.vocabularies, work=1.0, acceptance=forecast, support=1.0
    )
    token_s, token_j = float(world.device.token_s), float(world.device.token_j)
    found = []
    for drafts in range(true.shape[1] - 1):
        tokens = float(survival[: drafts + 1].sum())
        seconds, joules = float(costs.time_s[drafts]), float(costs.energy_j[drafts])
        wait_s = seconds - drafts * token_s
        found.append(Way(drafts, None, tokens, seconds, joules))
        if drafts == 0:
            continue
        # The guess of the token after them is one more draft; the next round's follow it, as many as there is time for.
        ahead = min(drafts + 1, wait_s / token_s)
        for threshold in THRESHOLDS:
            goes_on = promised[:, drafts + 1] >= threshold
            right = (goes_on * true[:, drafts + 1]).mean()
            saved_s = right * max(ahead - 1, 0.0) * token_s
            saved_j = right * max(ahead - 1, 0.0) * token_j
            spent_j = goes_on.mean() * ahead * token_j
            found.append(Way(drafts, threshold, tokens, seconds - saved_s, joules - saved_j + spent_j))
    return found


def fastest(candidates: list[Way], joules_a_token: float) -> float:
    """Most tokens/s of one way, or of two by turns, that spends so many joules a token; 0 where none does."""
    rates = np.array([(way.tokens, way.seconds, way.joules - joules_a_token * way.tokens) for way in candidates])
    best = 0.0
    for tokens, seconds, over in rates:
        if over <= 0:
            best = max(best, tokens / seconds)
            continue
        under = rates[rates[:, 2] < 0]
        share = -under[:, 2] / (over - under[:, 2])  # of rounds that may be the dear one's
        mixed = (share * tokens + (1 - share) * under[:, 0]) / (share * seconds + (1 - share) * under[:, 1])
        best = max(best, mixed.max(initial=0.0))
    return best


@dataclasses.dataclass(frozen=True, kw_only=True)
class InFlight:
    """Tokens/s with and without drafting on, at its best and at equal joules a token."""

    device: Annotated[str, arg(metavar="NAME")] = "orin-nano-15w"
    """As in `gelato presets`."""
    edge: Annotated[str, arg(metavar="NAME")] = "h100-7b"
    """As in `gelato presets`."""

    def run(self) -> None:
        """Print a line for each recording and delay.

        Raises:
            GelatoError: no such preset.
        """
        for name in ("short-greedy", "short-sampled"):
            recording = read_recording(name)
            for delay in (20, 60, 140):
                all_ways = ways(recording, system.preset(self.device, f"5mhz-500m-{delay}ms", self.edge))
                plain = [way for way in all_ways if way.threshold is None]
                rate = lambda way: way.tokens / way.seconds  # noqa: E731
                best, best_plain = max(all_ways, key=rate), max(plain, key=rate)
                equal_j = best_plain.joules / best_plain.tokens
                row = {
                    "recording": name,
                    "delay_ms": delay,
                    "plain_tokens_per_s": rate(best_plain),
                    "plain_mj_per_token": 1e3 * equal_j,
                    "drafting_on_gain": rate(best) / rate(best_plain) - 1,
                    "drafting_on_joules": best.joules / best.tokens / equal_j - 1,
                    "gain_at_equal_joules": fastest(all_ways, equal_j) / fastest(plain, equal_j) - 1,
                }
                print(json.dumps({key: _short(value) for key, value in row.items()}))


def _short(value: float | str) -> float | str:
    return value if isinstance(value, str) else round(float(value), 3)


if __name__ == "__main__":
    try:
        tyro.cli(InFlight).run()
    except GelatoError as error:
        sys.exit(f"error: {error}")
