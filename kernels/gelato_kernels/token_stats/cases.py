"""Named inputs of `entropy`: keyword arguments of one call each."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from gelato_kernels.case_logits import LOGITS, host_uniforms, normal


def _with_uniforms(logits: np.ndarray) -> dict[str, np.ndarray]:
    return {"logits": logits, "uniforms": host_uniforms(20, *logits.shape[:-1], 2)}


CASES: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    **{name: lambda make=make: _with_uniforms(make()) for name, make in LOGITS.items()},
    "no_draw": lambda: {"logits": LOGITS["ragged"]()},
    "temperature": lambda: _with_uniforms(LOGITS["ragged"]()) | {"temperature": np.array(0.3, np.float32)},
    "temperature_per_row": lambda: (
        _with_uniforms(LOGITS["masked"]()) | {"temperature": np.array([0.0, 0.8, 1.7], np.float32)}
    ),
    "one_row": lambda: _with_uniforms(LOGITS["ragged"]()[0]),
    "windows": lambda: _with_uniforms(normal(21, 2, 3, 300)),
    "bfloat16": lambda: _with_uniforms(LOGITS["ragged"]().astype(jnp.bfloat16)),
}
