"""Many simulated devices at once: settings by devices, rounds in one compiled loop, devices over whatever jax has.

Settings are a leading axis of the setup's arrays (`stack`): one program serves a sweep. Devices are run in
chunks that stay in a processor's caches; chunks are shared out over jax's devices.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from gelato_jax import keys
from gelato_jax.decoding.records import Policy, Setup
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import Vocabularies
from gelato_jax.simulation.environment import Environment
from gelato_jax.simulation.lifetime import Simulation, Sizes, lifetime
from gelato_jax.simulation.recording import Recording, Rollouts
from gelato_jax.system import System

CHUNK = 4096
"""Rows (settings x devices) that run together: their arrays stay in a CPU's caches."""
GROUP = 16
"""Settings of one program; a list of them is filled up to a multiple, so that its length never compiles anew."""


class Rates(NamedTuple):
    """Of rounds and prompts alike, sums over sums: each `[S]`, or `[S, shares]` by share of the devices.

    Seconds and joules are those of rounds and of prompts: what a prompt costs depends on whether the draft reads it.
    Tokens are those of rounds; the one that comes with a prompt would come under any rule.
    """

    tokens_per_s: np.ndarray
    power_w: np.ndarray
    energy_per_token_j: np.ndarray


def make_setup(
    recording: Recording,
    policy: Policy,
    system: System,
    *,
    vocabularies: Vocabularies | None = None,
) -> Setup:
    """Rules and world of a simulated device.

    Args:
        recording: whose calibration, exit costs and vocabularies hold.
        policy: the rules.
        system: device, link and edge.
        vocabularies: the sizes that messages are counted by; the recording's if not given.

    Raises:
        GelatoError: `seeded` with sampled text, whose acceptance was recorded under other draws.
    """
    if policy.payload.scheme == "seeded" and recording.temperature > 0:
        raise GelatoError(
            f"payload seeded with text sampled at temperature {recording.temperature:g}: the recording's acceptance is "
            "that of rejection sampling; take a greedy recording or another payload"
        )
    return Setup(
        policy=policy,
        system=system,
        calibration=jax.tree.map(jnp.asarray, recording.calibration),
        work=jnp.asarray(recording.work, jnp.float32),
        vocabularies=recording.vocabularies if vocabularies is None else vocabularies,
    )


def stack(settings: Sequence[Setup]) -> Setup:
    """Settings `[S]` of one structure as one record, arrays `[S, ...]`.

    Raises:
        GelatoError: they differ in more than numbers: other rules, payload schemes or sizes.
    """
    _one_structure(settings)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *settings)


def _one_structure(settings: Sequence[Setup]) -> None:
    structures = {jax.tree.structure(setup) for setup in settings}
    if len(structures) != 1:
        raise GelatoError(
            f"{len(settings)} settings have {len(structures)} structures; stack those of the same rules only"
        )


def simulate(
    recording: Recording,
    settings: Sequence[Setup],
    *,
    devices: int,
    rounds: int,
    warmup: int = 0,
    seed: int = 0,
    max_draft_length: int | None = None,
    believed: Sequence[Setup] | None = None,
    environment: Environment | None = None,
    texts: Sequence[int] | None = None,
    folds: int = 1,
    endless: bool = True,
    history: bool = False,
    jax_devices: Sequence[Any] | None = None,
) -> Simulation:
    """Run devices through recorded text under each setting.

    A device answers one request after the other, queue and estimate going on; which text comes next is
    drawn from its key. Device d meets the same channel and texts under every setting.

    Args:
        recording: of a pair.
        settings: rules and world, alike but for their numbers.
        devices: D.
        rounds: of each device.
        warmup: rounds ahead of them that no total counts: queue and estimates find their level.
        seed: of texts, channels and acceptances; the same seed gives the same result whatever runs it.
        max_draft_length: G; the recording's if not given.
        believed: the worlds that the devices believe to be in, one for each setting; the true ones if not given.
        environment: how the worlds change from round to round; not at all if not given.
        texts: `[D]` the first text of each device; drawn if not given.
        folds: equal parts of the devices, in their order, no two of which draw the same text: figures of such parts
            differ as those of other texts would.
        endless: False ends a device with its first text.
        history: keep every round's report.
        jax_devices: what computes; all that JAX has if not given.

    Returns:
        Totals, queues and, if asked for, reports.

    Raises:
        GelatoError: a size that cannot run; names it.
    """
    most = recording.max_draft_length
    size = most if max_draft_length is None else max_draft_length
    if not 0 < size <= most:
        raise GelatoError(f"max_draft_length is {size}, the recording holds drafts of 1 to {most} tokens")
    if devices < 1 or rounds < 1 or not settings:
        raise GelatoError(f"devices {devices}, rounds {rounds} and settings {len(settings)} must be at least 1")
    if texts is not None and (len(texts) != devices or not 0 <= min(texts) <= max(texts) < len(recording.categories)):
        raise GelatoError(f"texts must name one of the {len(recording.categories)} texts for each of {devices} devices")
    if not 1 <= folds <= len(recording.categories) or devices % folds:
        raise GelatoError(
            f"folds is {folds}, must divide the {devices} devices and be at most the {len(recording.categories)} texts"
        )
    _one_structure(settings)
    sizes = Sizes(max_draft_length=size, endless=endless, kept_rounds=rounds if history else None)
    mesh = Mesh(np.array(jax.devices() if jax_devices is None else jax_devices), ("devices",))
    group = 1 if len(settings) == 1 else GROUP
    chunk = max(1, min(CHUNK // group, -(-devices // mesh.size)))
    padded = -(-devices // (chunk * mesh.size)) * chunk * mesh.size
    first = np.full(padded, -1, np.int32)
    if texts is not None:
        first[:devices] = texts
    fold = np.minimum(np.arange(padded) * folds // devices, folds - 1).astype(np.int32)
    rollouts = jax.tree.map(jnp.asarray, recording.rollouts)
    drawn = (jnp.asarray(first), jnp.asarray(fold), folds)
    parts = []
    for begin in range(0, len(settings), group):
        actual = _group(settings, begin, group)
        trusted = actual if believed is None else _group(believed, begin, group)
        world = (trusted, actual, environment, rollouts)
        parts.append(_run(*world, *drawn, seed, warmup, rounds, sizes=sizes, chunk=chunk, mesh=mesh))
    kept = lambda *leaves: np.concatenate(leaves)[: len(settings), :devices]  # noqa: E731
    return jax.tree.map(kept, *jax.device_get(parts))


def _group(settings: Sequence[Setup], begin: int, size: int) -> Setup:
    """`size` settings from `begin`, the last one repeated."""
    chosen = list(settings[begin : begin + size])
    return stack(chosen + chosen[-1:] * (size - len(chosen)))


def total(simulation: Simulation, name: str) -> np.ndarray:
    """A field of `Totals` as float64, `[S, D]`; compensated sums with both their parts."""
    value = getattr(simulation.totals, name)
    return value.astype(np.float64) if isinstance(value, np.ndarray) else value.high.astype(np.float64) + value.low


def by_share(simulation: Simulation, *names: str, shares: int | None = None) -> list[np.ndarray]:
    """Fields of `Totals` summed over devices, each `[S]`, or `[S, shares]`.

    Args:
        simulation: whose totals.
        names: of the fields.
        shares: equal parts of the devices, in their order; all together if not given.
    """
    values = [total(simulation, name) for name in names]
    if shares is None:
        return [value.sum(axis=1) for value in values]
    return [value.reshape(len(value), shares, -1).sum(axis=2) for value in values]


def rates(simulation: Simulation, *, shares: int | None = None) -> Rates:
    """Tokens per second, watts and joules per token, prompts counted in each.

    Args:
        simulation: whose totals.
        shares: equal parts of the devices, in their order; all together if not given.
    """
    names = ("tokens", "time_s", "energy_j", "prompt_s", "prompt_j")
    tokens, time_s, energy_j, prompt_s, prompt_j = by_share(simulation, *names, shares=shares)
    seconds, joules = time_s + prompt_s, energy_j + prompt_j
    return Rates(tokens / seconds, joules / seconds, joules / tokens)


@partial(jax.jit, static_argnames=("sizes", "chunk", "mesh"))
def _run(
    believed: Setup,
    actual: Setup,
    environment: Environment | None,
    rollouts: Rollouts,
    texts: Array,
    fold: Array,
    folds: Array,
    seed: Array,
    warmup: Array,
    rounds: Array,
    *,
    sizes: Sizes,
    chunk: int,
    mesh: Mesh,
) -> Simulation:
    """All devices under a group of settings; `texts [D]` is -1 where the first text is to be drawn, of `fold [D]`."""
    device_keys = keys.row_keys(keys.spread(seed, texts.shape[0]))

    def one(believed: Setup, actual: Setup, key: Array, text: Array, fold: Array) -> Simulation:
        return lifetime(believed, actual, environment, rollouts, key, text, fold, folds, warmup, rounds, sizes)

    rows = jax.vmap(jax.vmap(one, in_axes=(None, None, 0, 0, 0)), in_axes=(0, 0, None, None, None))

    def share(believed: Setup, actual: Setup, *of_devices: Array) -> Simulation:
        """The devices of one jax device, chunk by chunk."""
        split = lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:])  # noqa: E731
        parts = lax.map(lambda part: rows(believed, actual, *part), tuple(map(split, of_devices)))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:]), parts)

    everywhere, over = PartitionSpec(), PartitionSpec("devices")
    shared = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(everywhere, everywhere, over, over, over),
        out_specs=PartitionSpec(None, "devices"),
        check_vma=False,
    )
    return shared(believed, actual, device_keys, texts, fold)
