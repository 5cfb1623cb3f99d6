"""What kernels for Mosaic GPU share: the compiler that Pallas is moving to on NVIDIA chips.

Mosaic GPU has neither argmax nor reductions of matrices that keep an axis, and its products want
shared memory laid out by hand. So a program here is one warpgroup that looks at vectors in global
memory and writes scalars and vectors: right for what is bound by memory, which all ops here are.
These kernels are twins of those for Triton, and run only by name until one of the two has been measured.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_kernels.dispatch import Backend

THREADS = 128
"""Of a warpgroup: vectors have a multiple of it."""


def mosaic_backends(
    module: str, function: str, refuses: Callable[..., str | None], leading: tuple[Any, ...] = ()
) -> tuple[Backend, ...]:
    """Backends `mosaic_gpu` and `mosaic_gpu_interpret`, both only by name.

    Args:
        module: imported when a backend first runs.
        function: of the module; called with the op's arrays and `interpret=`.
        refuses: what `Backend.refuses` is to be.
        leading: arguments ahead of the arrays.
    """

    def backend(interpret: bool) -> Backend:
        def run(*arrays: Any) -> Any:
            return getattr(importlib.import_module(module), function)(*leading, *arrays, interpret=interpret)

        name = "mosaic_gpu_interpret" if interpret else "mosaic_gpu"
        return Backend(name, run, () if interpret else ("cuda",), refuses, named_only=True, narrow=True)

    return backend(False), backend(True)


def call(
    body: Callable[..., None], *arrays: Array, out_type: Any, grid: Sequence[tuple[str, int]], interpret: bool
) -> Any:
    """Run a kernel: one warpgroup for every place of the grid.

    Args:
        body: given references to the arrays and the outputs, in global memory.
        *arrays: inputs.
        out_type: shapes and dtypes of the outputs.
        grid: name and size of each axis; the body asks `lax.axis_index` for its place.
        interpret: run it on any platform.

    Raises:
        ValueError: this jax has no interpreter of Mosaic GPU.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return plgpu.kernel(
        body,
        out_type=out_type,
        grid=tuple(size for _, size in grid),
        grid_names=tuple(name for name, _ in grid),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=_interpreter() if interpret else False,
    )(*arrays)


def _interpreter() -> Any:
    try:
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
    except ImportError:
        raise ValueError(f"mosaic_gpu_interpret: jax {jax.__version__} has no interpreter of Mosaic GPU") from None
    return InterpretGPUParams()


def chunk_size(inputs: int, most: int) -> int:
    """Length of the vectors in which a row of `inputs` numbers, at least `THREADS`, is read."""
    return min(most, inputs // THREADS * THREADS)


def read_chunk(index: Array, size: int, inputs: int) -> tuple[Any, Array, Array]:
    """A row's chunk, of which a last one that falls short begins early.

    Returns:
        Its slice, the places [size] of its numbers in the row, and which of them, [size] bool, no chunk before it has.
    """
    from jax.experimental import pallas as pl

    first = jnp.minimum(index * size, inputs - size)
    places = first + lax.broadcasted_iota(jnp.int32, (size,), 0)
    return pl.ds(first, size), places, places >= index * size


def row_products(rows_ref: Any, count: int, weight_ref: Any, output: Array, chunk: int) -> tuple[Array, ...]:
    """Sums over rows [count, in] times row `output` of weights [out, in], float32 scalars, one for each row."""
    inputs = rows_ref.shape[1]

    def step(index: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        place, _, own = read_chunk(index, chunk, inputs)
        weight = jnp.where(own, weight_ref[output, place].astype(jnp.float32), 0.0)
        return tuple(
            total + jnp.sum(weight * rows_ref[row, place].astype(jnp.float32)) for row, total in enumerate(sums)
        )

    return lax.fori_loop(0, -(-inputs // chunk), step, (jnp.zeros(()),) * count)
