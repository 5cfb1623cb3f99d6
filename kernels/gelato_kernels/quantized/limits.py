"""What the Pallas kernels of `quantized_matmul` serve; apart from them, so that asking imports no Pallas."""

from collections.abc import Callable

from jax import Array

from gelato_kernels.compilers import Compiler
from gelato_kernels.warpgroups import THREADS

MOST_ROWS = 16
"""Rows of one tile of a matrix unit; with more, XLA's own product shares the widened weights among them."""
MOST_INPUTS = 32_768
"""On a TPU, where a program holds whole rows: two blocks of 128 of them are 8 of its fast memory's 16 MiB."""
MOST_WEIGHTS = 2**31 - 1
"""On a GPU: Triton's offsets are int32."""


def refuses(compiler: Compiler) -> Callable[[Array, Array, Array], str | None]:
    """What `Backend.refuses` is for a compiler."""

    def reason(x: Array, weights: Array, scale: Array) -> str | None:
        del scale
        out, inputs = weights.shape
        if 0 in (x.size, out):
            return f"x has shape {x.shape} and weights {weights.shape}, expected no axis of 0"
        if x.size > MOST_ROWS * inputs:
            return f"x has {x.size // inputs} rows, at most {MOST_ROWS} are served"
        if compiler.name == "tpu" and inputs > MOST_INPUTS:
            return f"weights has {inputs} inputs, at most {MOST_INPUTS} are served"
        if compiler.name == "triton" and weights.size > MOST_WEIGHTS:
            return f"weights has {weights.size} numbers, at most {MOST_WEIGHTS} are served"
        return None

    return reason


def refuses_mosaic(x: Array, weights: Array, scale: Array) -> str | None:
    """What `Backend.refuses` is for Mosaic GPU."""
    if weights.shape[1] < THREADS:
        return f"weights has {weights.shape[1]} inputs, at least {THREADS} are served"
    return refuses(Compiler(name="triton"))(x, weights, scale)
