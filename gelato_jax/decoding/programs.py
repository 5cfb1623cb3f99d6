"""The compiled programs: a whole decode, or prefill and round apart, and the baseline.

A program depends on `Shapes`, on the structure of the job (which rules, which models) and on the
size of the buffers; every number in the job is data.
"""

import dataclasses
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gelato_jax.decoding.baseline import Text, decode_alone
from gelato_jax.decoding.ends import decode_round
from gelato_jax.decoding.prefill import prefill
from gelato_jax.decoding.records import DecodeState, Job, Session, Shapes
from gelato_jax.decoding.totals import Totals
from gelato_jax.types import Observation, RoundCost


def in_background(make: Callable[[], object]) -> Future[None]:
    """Make programs in a thread of its own; the calls that follow find them, for JAX keeps what it made.

    A process that ends meanwhile waits for the thread.
    """

    def work() -> None:
        with suppress(Exception):  # the call itself meets the same fault, where it can be raised
            make()

    executor = ThreadPoolExecutor(1, thread_name_prefix="compile")
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future


_BEGUN: dict[Hashable, Future[None]] = {}


def outline(known: Any) -> Hashable:
    """What a program is made for: a tree's structure, and the shapes and dtypes of its arrays."""
    leaves, structure = jax.tree.flatten(known)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def once(key: Hashable, begin: Callable[[], Future[None]]) -> Future[None]:
    """Programs that the first of like requests begins to make: lowering what JAX has kept takes 12 ms of each other.

    Args:
        key: what they are, and what they are made for (`outline`).
        begin: begins, and says when they are made.
    """
    if key not in _BEGUN:
        _BEGUN[key] = begin()
    return _BEGUN[key]


@partial(jax.jit, static_argnames="shapes")
def decode(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seeds: Array,
    session: Session | None = None,
    *,
    shapes: Shapes,
) -> tuple[Text, Totals, Session]:
    """A whole decode in one program. Arguments as `prefill`.

    Returns:
        Tokens and lengths, totals, and what the rows keep.
    """
    state = prefill(job, tokens, prompt_length, limit, seeds, shapes, session)
    state = lax.while_loop(lambda s: ~s.device.done.all(), lambda s: decode_round(s, job, shapes)[0], state)
    return text_of(state), state.row.totals, state.row.session


def text_of(state: DecodeState) -> Text:
    """What has been decoded so far."""
    return Text(state.device.tokens, state.device.length, state.device.fault)


@partial(jax.jit, static_argnames="shapes")
def start(
    job: Job,
    tokens: Array,
    prompt_length: Array,
    limit: Array,
    seeds: Array,
    session: Session | None = None,
    *,
    shapes: Shapes,
) -> DecodeState:
    """`prefill`, compiled."""
    return prefill(job, tokens, prompt_length, limit, seeds, shapes, session)


MOST_ROUNDS = 8
"""Of one call of `advance`."""


@partial(jax.jit, static_argnames="shapes", donate_argnames="state")
def advance(state: DecodeState, job: Job, most: Array | int = 1, *, shapes: Shapes) -> tuple[DecodeState, Array, Array]:
    """Some rounds in one call, which costs some milliseconds beside them on a CPU: it has hundreds of arguments.

    Args:
        state: before them; given away.
        job: what is decoded.
        most: [] int32 rounds, up to `MOST_ROUNDS`; fewer where every row is done before.
        shapes: static sizes.

    Returns:
        The state, the observations packed into one integer array `[MOST_ROUNDS, B, columns]` (see `unpack`), and how
        many there are.
    """

    def run(carried: tuple[DecodeState, Array, Array]) -> tuple[DecodeState, Array, Array]:
        state, packed, count = carried
        state, seen = decode_round(state, job, shapes)
        return state, packed.at[count].set(pack(seen)), count + 1

    def goes_on(carried: tuple[DecodeState, Array, Array]) -> Array:
        state, _, count = carried
        return (count < most) & ~state.device.done.all()

    widths = _widths(job.draft.work.shape[0], shapes.max_draft_length)
    nothing = jnp.zeros((MOST_ROUNDS, state.device.length.shape[0], sum(widths.values())), jnp.int32)
    return lax.while_loop(goes_on, run, (state, nothing, jnp.zeros((), jnp.int32)))


@partial(jax.jit, static_argnames="shapes")
def decode_autoregressive(
    job: Job, tokens: Array, prompt_length: Array, limit: Array, seeds: Array, *, shapes: Shapes
) -> Text:
    """`decode_alone`, compiled."""
    return decode_alone(job, tokens, prompt_length, limit, seeds, shapes)


_WHOLE = ("drafted", "accepted", "tokens", "passes", "budget", "caught_up", "exits", "ids")
_FLAGS = ("active", "rejected", "done", "fault")
_WIDE = ("exits", "ids", "cost")


def _widths(exits: int, max_draft_length: int) -> dict[str, int]:
    """Columns of an observation's fields, in their order."""
    wide: dict[str, int] = dict(
        zip(_WIDE, (exits, max_draft_length + 1, len(dataclasses.fields(RoundCost))), strict=True)
    )
    names = [field.name for field in dataclasses.fields(Observation) if not field.metadata.get("static")]
    return {name: wide.get(name, 1) for name in names}


def pack(seen: Observation) -> Array:
    """An observation as one int32 array `[B, columns]`, floats by their bits: one transfer a round."""

    def columns(leaf: Array) -> Array:
        leaf = leaf.reshape(leaf.shape[0], -1)
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return lax.bitcast_convert_type(leaf, jnp.int32) if is_float else leaf.astype(jnp.int32)

    return jnp.concatenate([columns(leaf) for leaf in jax.tree.leaves(seen)], axis=1)


def unpack(packed: np.ndarray, *, exits: int, max_draft_length: int) -> Observation:
    """Undo `pack`, on the host.

    Args:
        packed: `[B, columns]`.
        exits: X of the draft.
        max_draft_length: G.
    """
    values: dict[str, Any] = {}
    first = 0
    for name, width in _widths(exits, max_draft_length).items():
        part = np.ascontiguousarray(packed[:, first : first + width])
        first += width
        if name in _FLAGS:
            part = part.astype(bool)
        elif name not in _WHOLE:
            part = part.view(np.float32)
        values[name] = part if name in _WIDE else part[:, 0]
    names = [field.name for field in dataclasses.fields(RoundCost)]
    values["cost"] = RoundCost(**{name: values["cost"][:, index] for index, name in enumerate(names)})
    return Observation(**values)
