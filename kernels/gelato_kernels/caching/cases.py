"""Named inputs of `write_window`: keyword arguments of one call each."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np


def case(
    seed: int, lengths: list[int], *, leading: tuple[int, ...] = (2,), slots: int = 9, window: int = 3, size: int = 8
):
    """Normal numbers."""
    rng = np.random.default_rng(seed)
    rows = (len(lengths), *leading)
    return {
        "cache": rng.standard_normal((*rows, slots, size)).astype(np.float32),
        "window": rng.standard_normal((*rows, window, size)).astype(np.float32),
        "lengths": np.array(lengths, np.int32),
    }


def _bfloat16(**sizes: Any) -> dict[str, Any]:
    inputs = case(3, [4, 0, 6], **sizes)
    inputs["window"].flat[:3] = np.inf, -np.inf, np.nan
    return inputs | {"cache": inputs["cache"].astype(jnp.bfloat16)}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "rows": lambda: case(0, [4, 0, 6]),
    "one_row": lambda: case(1, [5]),
    "layers": lambda: case(2, [4, 1], leading=(3, 2)),
    "no_heads": lambda: case(7, [4, 1], leading=()),
    "past_the_end": lambda: case(4, [7, 9, 30, 2]),
    "past_the_end_alone": lambda: case(8, [7]),
    "ahead_of_the_first": lambda: case(5, [-1, -3, 2]),
    "nothing": lambda: case(6, [4, 1], window=0),
    "bfloat16": _bfloat16,
    "bfloat16_odd": lambda: _bfloat16(size=5, leading=(3, 2)),
}
