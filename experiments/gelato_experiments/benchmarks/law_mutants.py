"""Decoders with one mistake each that bends the distribution of sampled text: what `benchmarks.law` must catch.

All mutants are one program: a number in the payload says which is in force.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax import Array

import gelato_kernels
from gelato_experiments.benchmarks.law import SETTINGS
from gelato_jax import control, keys
from gelato_jax.decoding import ends
from gelato_jax.decoding.programs import decode
from gelato_jax.decoding.records import Drafted
from gelato_jax.payloads.full import Full
from gelato_jax.types import record

MUTANTS = (
    "none",
    "residual replaced by p",
    "no bonus on short drafts",
    "ratio x 1.05",
    "ratio inverted, q/p",
    "drop token i by q(x_i)",
    "drop token i by H_(i+1)",
    "trim the tail",
    "one uniform for accept and residual",
    "a round key used twice",
)
"""The first is the sound decoder, which must pass."""

_LIKELY, _CALM = 0.3, 1.3  # q(x) and nats, about the middle of what the tiny pair shows


def rules(mutant: str) -> dict[str, Any]:
    """Choices for `count_texts` under which a mutant's mistake shows."""
    number = jnp.asarray(MUTANTS.index(mutant), jnp.int32)
    return {
        "controller": control.static(2),
        "length_exit": control.length_exits.confidence(0.4),
        "depth_exit": control.depth_exits.fixed(),
        "payload": _Mutant(number=number),
    }


@record
class _Mutant(Full):
    """`full`, with the number of a mistake."""

    number: Array  # [] int32


class _Faults:
    """The mistakes, as functions in place of the sound ones; `mutant` is traced."""

    def __init__(self) -> None:
        self.mutant: Any = 0
        self.accepted: Any = None
        self.accept, self.residual = gelato_kernels.accept, gelato_kernels.sample_residual
        self.uniforms, self.draft = keys.round_uniforms, ends.draft

    def on(self, name: str) -> Any:
        return self.mutant == MUTANTS.index(name)

    def bent_accept(self, weights: Array, tokens: Array, log_prob: Array, length: Array, uniforms: Array) -> Array:
        drafted = weights[:, : tokens.shape[1]]  # a row for the bonus may follow
        log_p = drafted - gelato_kernels.entropy(drafted).logsumexp[..., None]
        log_p = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
        log_prob = log_prob - jnp.where(self.on("ratio x 1.05"), jnp.log(1.05), 0.0)
        # p / (p^2 / q) = q / p
        log_prob = jnp.where(self.on("ratio inverted, q/p"), 2.0 * log_p - log_prob, log_prob)
        self.accepted = self.accept(weights, tokens, log_prob, length, uniforms)
        return self.accepted

    def bent_residual(self, target: Array, draft: Array, is_bonus: Array, uniforms: Array) -> Any:
        is_bonus = is_bonus | self.on("residual replaced by p")
        full_draft = self.accepted == SETTINGS.max_draft_length
        is_bonus = is_bonus & (full_draft | ~self.on("no bonus on short drafts"))
        return self.residual(target, draft, is_bonus, uniforms)

    def bent_uniforms(self, row_keys: Array, numbers: Array, use: Any, shape: tuple[int, ...]) -> Array:
        numbers = jnp.where(self.on("a round key used twice"), jnp.minimum(numbers, 1), numbers)
        drawn = self.uniforms(row_keys, numbers, use, shape)
        if use is not keys.Use.NEXT_TOKEN:
            return drawn
        first = self.uniforms(row_keys, numbers, keys.Use.ACCEPT, (SETTINGS.max_draft_length,))[:, :1]
        return jnp.where(self.on("one uniform for accept and residual"), first, drawn)

    def bent_draft(self, *arguments: Any) -> Any:
        drafted, uplink = self.draft(*arguments)
        made, whole = drafted.own, drafted.effort.length
        index = jnp.arange(SETTINGS.max_draft_length)
        sent = index < whole[:, None]
        likely = sent & (made.proposal.log_prob >= jnp.log(_LIKELY))
        next_entropy = jnp.roll(made.entropy, -1, axis=1)
        calm = sent & ((next_entropy < _CALM) | (index + 1 == whole[:, None]))
        leading = lambda keep: jnp.cumprod(keep, axis=1).sum(axis=1)  # noqa: E731
        length = jnp.where(self.on("drop token i by q(x_i)"), leading(likely), whole)
        length = jnp.where(self.on("drop token i by H_(i+1)"), leading(calm), length)
        length = jnp.where(self.on("trim the tail"), jnp.max(likely * (index + 1), axis=1), length)
        length = length.astype(jnp.int32)
        proposal = dataclasses.replace(made.proposal, length=length)
        effort = dataclasses.replace(drafted.effort, length=length)
        drafted = Drafted(effort=effort, own=dataclasses.replace(made, proposal=proposal))
        return drafted, dataclasses.replace(uplink, length=length)


@contextlib.contextmanager
def mutated(**options: Any) -> Iterator[Callable[..., Any]]:
    """`decode` with all mutants in it, for `count_texts(program=)`; compiled while the context is open.

    Args:
        **options: of `jax.jit`.
    """
    faults, sound = _Faults(), inspect.unwrap(decode)

    def program(work: Any, *arguments: Any, shapes: Any) -> Any:
        faults.mutant = work.policy.payload.number
        return sound(work, *arguments, shapes=shapes)

    with (
        mock.patch.object(gelato_kernels, "accept", faults.bent_accept),
        mock.patch.object(gelato_kernels, "sample_residual", faults.bent_residual),
        mock.patch.object(keys, "round_uniforms", faults.bent_uniforms),
        mock.patch.object(ends, "draft", faults.bent_draft),
    ):
        yield jax.jit(program, static_argnames="shapes", **options)
