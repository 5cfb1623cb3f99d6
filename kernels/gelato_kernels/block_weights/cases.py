"""Named inputs of `block_matmul`: keyword arguments of one call each."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gelato_kernels.block_weights.api import pack_blocks, quantize_blocks
from gelato_kernels.block_weights.records import GROUP, BlockWeights, Format

Inputs = dict[str, Any]

_pack = jax.jit(pack_blocks)
_round = jax.jit(quantize_blocks, static_argnums=1)


def matrix(seed: int, out: int, inputs: int, format: Format = "q4") -> BlockWeights:
    """Weights of every whole number, with scales and minimums as a file of float16 holds them."""
    rng = np.random.default_rng(seed)
    if format == "bfloat16":
        return _round(rng.standard_normal((out, inputs)).astype(np.float32), format)
    groups = -(-inputs // GROUP)
    scale = rng.uniform(0.01, 0.1, (out, groups)).astype(np.float16)
    if format == "q8":
        return _pack(rng.integers(-128, 128, (out, inputs)).astype(np.int8), scale / np.float16(8))
    minimum = rng.uniform(-1.0, 0.1, (out, groups)).astype(np.float16)
    return _pack(rng.integers(0, 16, (out, inputs)).astype(np.uint8), scale, minimum)


def case(seed: int, out: int, *shape: int, format: Format = "q4") -> Inputs:
    """Normal rows of `shape` and a matrix for them."""
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return {"x": x, "weights": matrix(seed, out, shape[-1], format)}


def around(seed: int, out: int, *shape: int, format: Format = "q4", gated: bool = False, norm: bool = False) -> Inputs:
    """`case` with all that may stand around a product; x is twice as wide if gated."""
    rng = np.random.default_rng(seed + 1)
    inputs = case(seed, out, *shape, format=format)
    if gated:
        inputs |= {"x": rng.standard_normal((*shape[:-1], 2 * shape[-1]), np.float32), "gated": True}
    if norm:
        inputs |= {"norm": (rng.standard_normal(shape[-1]).astype(np.float32), 1e-5)}
    return inputs | {
        "bias": rng.standard_normal(out).astype(np.float32),
        "residual": rng.standard_normal((*shape[:-1], out)).astype(np.float32),
        "rows": np.int32(shape[-2] - 1),
    }


def _outlier() -> Inputs:
    inputs = case(5, 33, 4, 64)
    inputs["x"][:, 11] = 1000.0
    return inputs


def _zeros() -> Inputs:
    inputs = case(6, 33, 3, 64, format="q8")
    inputs["x"][1] = 0.0
    inputs["x"][2] *= 1e-33  # below what a step can be inverted for
    return inputs


def _narrow() -> Inputs:
    inputs = case(9, 32, 2, 96)
    return inputs | {"x": inputs["x"].astype(jnp.bfloat16)}


CASES: dict[str, Callable[[], Inputs]] = {
    "one_row": lambda: case(0, 960, 1, 1, 576),
    "one_row_q8": lambda: case(1, 960, 1, 1, 576, format="q8"),
    "one_vector": lambda: case(2, 33, 47),
    "window": lambda: case(3, 96, 1, 5, 1536),
    "window_q8": lambda: case(4, 112, 1, 5, 1536, format="q8"),
    "one_row_bfloat16": lambda: case(15, 960, 1, 1, 576, format="bfloat16"),
    "window_bfloat16": lambda: around(16, 112, 1, 5, 1536, format="bfloat16", norm=True),
    "ragged_bfloat16": lambda: around(17, 1003, 7, 47, format="bfloat16", gated=True),
    "ragged": lambda: case(8, 5003, 3, 47),
    "ragged_q8": lambda: case(8, 1003, 7, 47, format="q8"),
    "many_rows": lambda: case(10, 48, 2, 70, 96),
    "normed": lambda: around(11, 33, 2, 3, 70, norm=True),
    "gated": lambda: around(12, 33, 2, 3, 70, gated=True, format="q8"),
    "added": lambda: around(13, 64, 5, 64),
    "rows_of_each": lambda: around(14, 33, 4, 3, 70) | {"rows": np.array([2, 0, 9, 1], np.int32)},
    "bfloat16": _narrow,
    "outlier": _outlier,
    "zero_row": _zeros,
    "no_rows": lambda: case(7, 33, 0, 47),
}
