"""Putting stored arrays on the default device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


def weight_dtype() -> Any:
    """Type of float weights in memory: bfloat16 on an accelerator, float32 on a CPU.

    (XLA widens bfloat16 weights on a CPU at every step: slower than float32, for half the memory.)
    """
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16


def place(array: np.ndarray, dtype: DTypeLike) -> jax.Array:
    """An array on the default device as `dtype`."""
    return jnp.asarray(array, dtype)
