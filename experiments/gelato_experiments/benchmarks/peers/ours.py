"""Our own: the target alone, which all are compared with, and speculation by the draft and by lookup."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from gelato_experiments.benchmarks.peers.engine import Engine
from gelato_jax import control
from gelato_jax.decoding import DecodeSettings, Pair, autoregressive, generate, lookup
from gelato_jax.decoding.local import PROBE_AFTER
from gelato_jax.system import System


def engines(pair: Pair, measure: Callable[[Pair], System], settings: DecodeSettings) -> list[Engine]:
    """The target alone, first, and speculation by the pair's draft and by one without weights.

    Args:
        pair: draft and target.
        measure: this machine's times of a pair.
        settings: lengths.
    """

    def alone(ids: Sequence[int]) -> list[int]:
        (text,) = autoregressive(pair, [list(ids)], settings=settings)
        return text

    looked_up = dataclasses.replace(pair, draft=lookup())
    return [
        Engine("gelato, target alone", alone),
        Engine("gelato, ratio", _speculative(pair, measure(pair), settings)),
        Engine("gelato, ratio, lookup", _speculative(looked_up, measure(looked_up), settings)),
    ]


def _speculative(pair: Pair, system: System, settings: DecodeSettings) -> Callable[[Sequence[int]], list[int]]:
    """Under `ratio` with priced exits; what it learns it keeps from prompt to prompt."""
    session: Any = None

    def decode(ids: Sequence[int]) -> list[int]:
        nonlocal session
        result = generate(
            pair,
            [list(ids)],
            settings=settings,
            session=session,
            controller=control.ratio(probe_after=PROBE_AFTER),
            length_exit=control.length_exits.priced(),
            system=system,
        )
        session = result.session
        return result.tokens[0]

    return decode
