"""Named inputs of `sample`: keyword arguments of one call each."""

from collections.abc import Callable

import numpy as np

from gelato_kernels.case_logits import LOGITS, RAGGED, host_uniforms, masked
from gelato_kernels.noise import MANTISSA_BITS

_SMALLEST = 0.5 * 2.0**-MANTISSA_BITS


def _with_uniforms(logits: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": logits, "uniforms": host_uniforms(30, len(logits), 2)}


def _extreme_uniforms() -> dict[str, np.ndarray]:
    ends = np.array([_SMALLEST, 1.0 - _SMALLEST], np.float32)
    corners = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(4, 2)
    return {"logits": np.tile(masked(31, 1, RAGGED, kept=0.01), (4, 1)), "uniforms": corners}


CASES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    **{name: lambda make=make: _with_uniforms(make()) for name, make in LOGITS.items()},
    "extreme_uniforms": _extreme_uniforms,
}
