"""One simulated device from its first request to its last round: replayed requests, one after the other."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_jax import keys
from gelato_jax.control.base import where_active
from gelato_jax.decoding.records import DecodeState, RowState, Setup
from gelato_jax.decoding.round import run_round
from gelato_jax.decoding.totals import Totals
from gelato_jax.decoding.update import fresh_session, open_row, read_prompt
from gelato_jax.simulation.environment import Environment
from gelato_jax.simulation.recorded import DeviceState, RecordedDrafter, RecordedVerifier
from gelato_jax.simulation.recording import Rollouts
from gelato_jax.types import Compensated, Observation, record


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The static part of a simulation."""

    max_draft_length: int
    endless: bool
    kept_rounds: int | None  # rounds whose history is kept


@record
class _Life:
    """What a simulated device carries."""

    device: DeviceState
    row: RowState
    requests: Array  # [] int32 texts begun
    mode: Array  # [] int32 of the environment


def lifetime(
    believed: Setup,
    actual: Setup,
    environment: Environment | None,
    rollouts: Rollouts,
    key: Array,
    text: Array,
    fold: Array,
    folds: Array,
    warmup: Array,
    rounds: Array,
    sizes: Sizes,
) -> Simulation:
    """One device, from its first request to its last round; it reads the texts `fold`, `fold + folds`, ..."""
    draw = partial(_draw_text, key, first=fold, step=folds, texts=rollouts.positions.shape[0])
    text = jnp.where(text < 0, draw(jnp.zeros((), jnp.int32)), text)
    count, no = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)
    begun = _Life(
        device=DeviceState(key=key, text=text, position=count, done=~no, acceptable=count),
        row=open_row(fresh_session(believed), keys.link_keys(key[None])[0], setup=actual),
        requests=count,
        mode=count,
    )
    life = _next_request(begun, text, rollouts, believed, actual, sizes)

    def step(life: _Life) -> tuple[_Life, History]:
        trusted, world, mode = believed, actual, life.mode
        if environment is not None:
            mode = environment.next_mode(key, life.row.round, mode)
            trusted, world = environment.believed(believed, mode), environment.actual(actual, mode)
        if sizes.endless:
            life = _next_request(life, draw(life.requests), rollouts, trusted, world, sizes)
        state = DecodeState(device=life.device, edge=None, row=life.row)
        drafter = RecordedDrafter(rollouts, trusted, sizes.max_draft_length)
        after, seen = run_round(
            state, drafter, RecordedVerifier(), world, sizes.max_draft_length, believed=trusted, rows=lambda f: f
        )
        history = History(seen=seen, text=life.device.text, acceptable=after.device.acceptable)
        return _Life(device=after.device, row=after.row, requests=life.requests, mode=mode), history

    def phase(number: Array, carried: tuple[_Life, Totals]) -> tuple[_Life, Totals]:
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


def _since(before: Totals, now: Totals) -> Totals:
    """What came after `before`."""

    def less(now: Any, before: Any) -> Any:
        if isinstance(now, Compensated):
            return now.add(-before.high).add(-before.low)
        return now - before

    return jax.tree.map(less, now, before, is_leaf=lambda node: isinstance(node, Compensated))


def _draw_text(key: Array, request: Array, *, first: Array, step: Array, texts: int) -> Array:
    """One of the texts `first`, `first + step`, ..., all alike likely."""
    count = (texts - first + step - 1) // step
    uniform = keys.request_uniform(key, request)
    return first + step * jnp.minimum((uniform * count).astype(jnp.int32), count - 1)


def _next_request(life: _Life, text: Array, rollouts: Rollouts, believed: Setup, actual: Setup, sizes: Sizes) -> _Life:
    """A device that is done reads the prompt of another text."""
    new, device = life.device.done, life.device
    prompt = rollouts.prompt_tokens[text]
    row = dataclasses.replace(life.row, pending=jnp.zeros((), jnp.int32))
    row, _ = read_prompt(
        row,
        prompt,
        rollouts.limit[text] + 1,
        setup=actual,
        believed=believed,
        max_draft_length=sizes.max_draft_length,
    )
    begun = _Life(
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
