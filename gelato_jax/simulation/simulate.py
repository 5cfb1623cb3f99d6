"""Many simulated devices at once: settings by devices, rounds in one compiled loop, devices over whatever jax has.

Settings are a leading axis of the setup' arrays (`stack`): one program serves a sweep. Devices are run in
chunks that stay in a processor's caches; chunks are shared out over jax's devices.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from gelato_jax import keys
from gelato_jax.control.base import where_active
from gelato_jax.decoding.records import DecodeState, Policy, RowState, Setup, Totals
from gelato_jax.decoding.round import run_round
from gelato_jax.decoding.update import fresh_session, open_row, read_prompt
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import Vocabularies
from gelato_jax.simulation.environment import Environment
from gelato_jax.simulation.noise import unrolled
from gelato_jax.simulation.recorded import DeviceState, RecordedDrafter, RecordedVerifier
from gelato_jax.simulation.recording import Recording, Rollouts
from gelato_jax.system import System
from gelato_jax.types import Compensated, Observation, record

CHUNK = 4096
"""Rows (settings x devices) that run together: their arrays stay in a CPU's caches."""
GROUP = 16
"""Settings of one program; a list of them is filled up to a multiple, so that its length never compiles anew."""


@record
class Simulation:
    """What a simulation gave: NumPy leaves, settings and devices first `[S, D, ...]`."""

    totals: Totals
    queue_j: Any  # [S, D] after the last round
    requests: Any  # [S, D] int32 texts begun
    history: "History | None"  # leaves [S, D, rounds] where it was asked for


@record
class History:
    """Every round of a simulation."""

    seen: Observation
    text: Any  # int32 row of the recording
    acceptable: Any  # int32 drafts that would have been accepted if all G had been sent


class Rates(NamedTuple):
    """Sums over sums, each `[S]`."""

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
        warmup: rounds ahead of them that no total counts: queue and estimates settle.
        seed: of texts, channels and acceptances; the same seed gives the same result whatever runs it.
        max_draft_length: G; the recording's if not given.
        believed: the worlds that the devices believe to be in, one for each setting; the true ones if not given.
        environment: how the worlds change from round to round; not at all if not given.
        texts: `[D]` the first text of each device; drawn if not given.
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
    _one_structure(settings)
    sizes = _Sizes(max_draft_length=size, endless=endless, kept_rounds=rounds if history else None)
    mesh = Mesh(np.array(jax.devices() if jax_devices is None else jax_devices), ("devices",))
    group = 1 if len(settings) == 1 else GROUP
    chunk = max(1, min(CHUNK // group, -(-devices // mesh.size)))
    padded = -(-devices // (chunk * mesh.size)) * chunk * mesh.size
    first = np.full(padded, -1, np.int32)
    if texts is not None:
        first[:devices] = texts
    rollouts = jax.tree.map(jnp.asarray, recording.rollouts)
    parts = []
    for begin in range(0, len(settings), group):
        actual = _group(settings, begin, group)
        trusted = actual if believed is None else _group(believed, begin, group)
        world = (trusted, actual, environment, rollouts)
        parts.append(_run(*world, jnp.asarray(first), seed, warmup, rounds, sizes=sizes, chunk=chunk, mesh=mesh))
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


def rates(simulation: Simulation) -> Rates:
    """Tokens per second and joules per token of all rounds, and watts of rounds and prompts: sums over sums."""
    names = ("tokens", "time_s", "energy_j", "prompt_s", "prompt_j")
    tokens, seconds, joules, prompt_s, prompt_j = (total(simulation, name).sum(axis=1) for name in names)
    return Rates(tokens / seconds, (joules + prompt_j) / (seconds + prompt_s), joules / tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """The static part of a simulation."""

    max_draft_length: int
    endless: bool
    kept_rounds: int | None  # rounds whose history is kept


@partial(jax.jit, static_argnames=("sizes", "chunk", "mesh"))
def _run(
    believed: Setup,
    actual: Setup,
    environment: Environment | None,
    rollouts: Rollouts,
    texts: Array,
    seed: Array,
    warmup: Array,
    rounds: Array,
    *,
    sizes: _Sizes,
    chunk: int,
    mesh: Mesh,
) -> Simulation:
    """All devices under a group of settings; `texts [D]` is -1 where the first text is to be drawn."""
    device_keys = unrolled(keys.row_keys(keys.spread(seed, texts.shape[0])))

    def one(believed: Setup, actual: Setup, key: Array, text: Array) -> Simulation:
        return _lifetime(believed, actual, environment, rollouts, key, text, warmup, rounds, sizes)

    rows = jax.vmap(jax.vmap(one, in_axes=(None, None, 0, 0)), in_axes=(0, 0, None, None))

    def share(believed: Setup, actual: Setup, key: Array, text: Array) -> Simulation:
        """The devices of one jax device, chunk by chunk."""
        split = lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:])  # noqa: E731
        parts = lax.map(lambda part: rows(believed, actual, *part), (split(key), split(text)))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:]), parts)

    everywhere, over = PartitionSpec(), PartitionSpec("devices")
    shared = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(everywhere, everywhere, over, over),
        out_specs=PartitionSpec(None, "devices"),
        check_vma=False,
    )
    return shared(believed, actual, device_keys, texts)


def _lifetime(
    believed: Setup,
    actual: Setup,
    environment: Environment | None,
    rollouts: Rollouts,
    key: Array,
    text: Array,
    warmup: Array,
    rounds: Array,
    sizes: _Sizes,
) -> Simulation:
    """One device, from its first request to its last round."""
    text = jnp.where(text < 0, _draw_text(key, jnp.zeros((), jnp.int32), rollouts), text)
    count, no = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)
    begun = _Lifetime(
        device=DeviceState(key=key, text=text, position=count, done=~no, acceptable=count),
        row=open_row(fresh_session(believed), keys.link_keys(key[None])[0], setup=actual),
        requests=count,
        mode=count,
    )
    life = _next_request(begun, text, rollouts, believed, actual, sizes)

    def step(life: _Lifetime) -> tuple[_Lifetime, History]:
        trusted, world, mode = believed, actual, life.mode
        if environment is not None:
            mode = environment.next_mode(key, life.row.round, mode)
            trusted, world = environment.believed(believed, mode), environment.actual(actual, mode)
        if sizes.endless:
            drawn = _draw_text(key, life.requests, rollouts)
            life = _next_request(life, drawn, rollouts, trusted, world, sizes)
        state = DecodeState(device=life.device, edge=None, row=life.row)
        drafter = RecordedDrafter(rollouts, trusted, sizes.max_draft_length)
        after, seen = run_round(
            state, drafter, RecordedVerifier(), world, sizes.max_draft_length, believed=trusted, rows=lambda f: f
        )
        history = History(seen=seen, text=life.device.text, acceptable=after.device.acceptable)
        return _Lifetime(device=after.device, row=after.row, requests=life.requests, mode=mode), history

    def phase(number: Array, carried: tuple[_Lifetime, Totals]) -> tuple[_Lifetime, Totals]:
        """Warm-up, then what counts: one loop in the program."""
        life, before = carried
        before = jax.tree.map(
            lambda new, old: jnp.where((number > 0) & (warmup > 0), new, old), life.row.totals, before
        )
        count = jnp.where(number > 0, 0 if sizes.kept_rounds else rounds, warmup)
        return lax.fori_loop(0, count, lambda _, life: step(life)[0], life), before

    nothing = jax.tree.map(jnp.zeros_like, life.row.totals)
    (life, before), history = lax.fori_loop(0, 2, phase, (life, nothing)), None
    if sizes.kept_rounds is not None:
        life, history = lax.scan(lambda life, _: step(life), life, length=sizes.kept_rounds)
    queue = actual.policy.controller.queue(life.row.session.controller)
    totals = _since(before, life.row.totals)
    return Simulation(totals=totals, queue_j=queue, requests=life.requests, history=history)


@record
class _Lifetime:
    """What a simulated device carries."""

    device: DeviceState
    row: RowState
    requests: Array  # [] int32 texts begun
    mode: Array  # [] int32 of the environment


def _since(before: Totals, now: Totals) -> Totals:
    """What came after `before`."""

    def less(now: Any, before: Any) -> Any:
        if isinstance(now, Compensated):
            return now.add(-before.high).add(-before.low)
        return now - before

    return jax.tree.map(less, now, before, is_leaf=lambda node: isinstance(node, Compensated))


def _draw_text(key: Array, request: Array, rollouts: Rollouts) -> Array:
    uniform = keys.request_uniform(key, request)
    count = rollouts.positions.shape[0]
    return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)


def _next_request(
    life: _Lifetime, text: Array, rollouts: Rollouts, believed: Setup, actual: Setup, sizes: _Sizes
) -> _Lifetime:
    """A device that is done reads the prompt of another text."""
    new, device = life.device.done, life.device
    prompt = rollouts.prompt_tokens[text]
    row = dataclasses.replace(life.row, pending=jnp.zeros((), jnp.int32))
    row, _ = read_prompt(row, prompt, setup=actual, believed=believed, max_draft_length=sizes.max_draft_length)
    begun = _Lifetime(
        device=DeviceState(
            key=device.key,
            text=text,
            position=jnp.zeros((), jnp.int32),
            done=rollouts.positions[text] < 1,
            acceptable=device.acceptable,
        ),
        row=row,
        requests=life.requests + 1,
        mode=life.mode,
    )
    return where_active(new, begun, life)
