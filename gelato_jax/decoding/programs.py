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


@partial(jax.jit, static_argnames="shapes", donate_argnames="state")
def advance(state: DecodeState, job: Job, *, shapes: Shapes) -> tuple[DecodeState, Array]:
    """One round, compiled, its observation packed into one integer array `[B, ...]` (see `unpack`)."""
    state, seen = decode_round(state, job, shapes)
    return state, pack(seen)


@partial(jax.jit, static_argnames="shapes")
def decode_autoregressive(
    job: Job, tokens: Array, prompt_length: Array, limit: Array, seeds: Array, *, shapes: Shapes
) -> Text:
    """`decode_alone`, compiled."""
    return decode_alone(job, tokens, prompt_length, limit, seeds, shapes)


_WHOLE = ("drafted", "accepted", "tokens", "passes", "budget", "caught_up", "exits", "ids")
_FLAGS = ("active", "rejected", "done", "fault")


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
    widths = {"exits": exits, "ids": max_draft_length + 1, "cost": len(dataclasses.fields(RoundCost))}
    values: dict[str, Any] = {}
    first = 0
    for field in dataclasses.fields(Observation):
        if field.metadata.get("static"):
            continue
        width = widths.get(field.name, 1)
        part = np.ascontiguousarray(packed[:, first : first + width])
        first += width
        if field.name in _FLAGS:
            part = part.astype(bool)
        elif field.name not in _WHOLE:
            part = part.view(np.float32)
        values[field.name] = part if field.name in widths else part[:, 0]
    names = [field.name for field in dataclasses.fields(RoundCost)]
    values["cost"] = RoundCost(**{name: values["cost"][:, index] for index, name in enumerate(names)})
    return Observation(**values)
