"""Which implementation is held to which case on this machine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gelato_kernels.dispatch import Backend, runnable

_MOSAIC_VOCAB = range(256, 10_000)
"""Shorter rows are refused, and the interpreter of Mosaic GPU takes milliseconds for every block of longer ones."""


def pairs(
    backends: Sequence[Backend], cases: Mapping[str, Callable[[], dict[str, Any]]], rows: str
) -> list[tuple[str, str]]:
    """(implementation, case) of all that can run here.

    Args:
        backends: of an op.
        cases: its named inputs.
        rows: the input whose last axis is the vocabulary.
    """
    vocab = {case: make()[rows].shape[-1] for case, make in cases.items()}
    return [
        (name, case)
        for name in runnable(backends)
        for case in cases
        if not name.startswith("mosaic") or vocab[case] in _MOSAIC_VOCAB
    ]
