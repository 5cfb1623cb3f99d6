"""Named inputs of `window_attention`: keyword arguments of one call each."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

Inputs = dict[str, Any]


def case(
    seed: int,
    lengths: list[int],
    *,
    window: int = 5,
    heads: tuple[int, int] = (6, 2),
    size: int = 16,
    slots: int = 40,
    garbage: float = 50.0,
) -> Inputs:
    """Normal queries, keys and values; `garbage` stands in the cache after each row's length.

    Args:
        seed: of the numbers.
        lengths: valid slots of each row.
        window: new tokens.
        heads: of queries, and of keys.
        size: numbers a head.
        slots: of the cache.
        garbage: in dead slots.
    """
    rng = np.random.default_rng(seed)
    rows, (query_heads, kv_heads) = len(lengths), heads
    inputs: Inputs = {
        "query": rng.standard_normal((rows, window, query_heads, size), np.float32),
        "lengths": np.array(lengths, np.int32),
    }
    for name in ("key", "value"):
        inputs[f"cache_{name}"] = rng.standard_normal((rows, kv_heads, slots, size), np.float32)
        inputs[f"window_{name}"] = rng.standard_normal((rows, kv_heads, window, size), np.float32)
        for row, length in enumerate(lengths):
            inputs[f"cache_{name}"][row, :, length:] = garbage
    return inputs


def _bfloat16() -> Inputs:
    inputs = case(5, [40, 0, 17])
    return inputs | {name: inputs[name].astype(jnp.bfloat16) for name in ("cache_key", "cache_value")}


def _huge_scores() -> Inputs:
    inputs = case(6, [40, 0, 17])
    return inputs | {"query": inputs["query"] * 100}


CASES: dict[str, Callable[[], Inputs]] = {
    "window": lambda: case(0, [40, 0, 17]),
    "huge_garbage": lambda: case(1, [39, 1, 0], garbage=1e30),
    "huge_scores": _huge_scores,
    "scale": lambda: case(2, [40, 0, 17]) | {"scale": 0.3},
    "one_token": lambda: case(3, [23], window=1, heads=(3, 3)),
    "seven_heads_share_a_key": lambda: case(4, [3, 21], heads=(14, 2), size=24, slots=21),
    "bfloat16": _bfloat16,
    "wide_heads": lambda: case(8, [9, 4], window=2, heads=(2, 1), size=128, slots=9),
    "many_slots": lambda: case(7, [600, 64, 0], window=1, size=8, slots=600),
}
