"""Named inputs of `quantized_matmul`: keyword arguments of one call each."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np


def _case(seed: int, out: int, *shape: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal(shape, np.float32),
        "weights": rng.integers(-127, 128, (out, shape[-1])).astype(np.int8),
        "scale": rng.uniform(0.001, 0.1, out).astype(np.float32),
    }


def _outlier() -> dict[str, np.ndarray]:
    inputs = _case(5, 33, 4, 47)
    inputs["x"][:, 11] = 1000.0
    return inputs


def _zeros() -> dict[str, np.ndarray]:
    inputs = _case(6, 33, 3, 47)
    inputs["x"][1] = 0.0
    return inputs


def _narrow() -> dict[str, np.ndarray]:
    inputs = _case(9, 33, 2, 576)
    return inputs | {"x": inputs["x"].astype(jnp.bfloat16)}


CASES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "one_row": lambda: _case(0, 960, 1, 1, 576),
    "one_vector": lambda: _case(1, 33, 47),
    "one_long_row": lambda: _case(2, 33, 1, 4864),
    "window": lambda: _case(3, 96, 1, 5, 1536),
    "ragged": lambda: _case(8, 5003, 3, 47),
    "bfloat16": _narrow,
    "most_rows": lambda: _case(10, 33, 16, 896),
    "many_rows": lambda: _case(4, 33, 2, 70, 47),
    "outlier": _outlier,
    "zero_row": _zeros,
    "no_rows": lambda: _case(7, 33, 0, 47),
}
