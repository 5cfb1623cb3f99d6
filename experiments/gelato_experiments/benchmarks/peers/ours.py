"""Our own two: the target alone, which all are compared with, and speculation."""

from collections.abc import Sequence
from typing import Any

from gelato_experiments.benchmarks.peers.engine import Engine
from gelato_jax import control
from gelato_jax.decoding import DecodeSettings, Pair, autoregressive, generate
from gelato_jax.decoding.local import PROBE_AFTER
from gelato_jax.system import System


def engines(pair: Pair, system: System, settings: DecodeSettings) -> list[Engine]:
    """The target alone, first, and speculation under `ratio` with priced exits; what it learns it keeps."""
    session: Any = None

    def alone(ids: Sequence[int]) -> list[int]:
        (text,) = autoregressive(pair, [list(ids)], settings=settings)
        return text

    def speculative(ids: Sequence[int]) -> list[int]:
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

    return [Engine("gelato, target alone", alone), Engine("gelato, ratio", speculative)]
