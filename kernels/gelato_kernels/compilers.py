"""What Pallas kernels are lowered for: one source serves a TPU, an NVIDIA GPU through Triton, and an interpreter.

Pallas is imported when a kernel is first traced, so that a process on a CPU never waits for it.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax

from gelato_kernels.dispatch import Backend

PLATFORMS = {"tpu": ("tpu",), "triton": ("cuda",)}
"""What each gets by default: only what the kernels have been compiled for."""


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """A compiler of Pallas kernels.

    Attributes:
        name: `tpu` (Mosaic) or `triton`.
        interpret: run the kernel on any platform, as its tests do: True as XLA code, or Pallas's parameters of a
            simulated TPU.
    """

    name: Literal["tpu", "triton"]
    interpret: Any = False

    @property
    def lanes(self) -> int:
        """Numbers that a kernel writes side by side for one row: a vector register's on a TPU."""
        return 128 if self.name == "tpu" else 16

    def call(
        self,
        kernel: Callable[..., None],
        *,
        grid: Sequence[int],
        in_specs: Sequence[Any],
        out_specs: Any,
        out_shape: Any,
        name: str,
        prefetched: int = 0,
        stages: int | None = None,
    ) -> Callable[..., Any]:
        """`pallas_call` with this compiler's parameters; no program depends on what another writes.

        Args:
            kernel: the body.
            grid: of programs.
            in_specs: of the operands, without those that are prefetched.
            out_specs: of the results.
            out_shape: of the results.
            name: of the kernel, for profiles.
            prefetched: first operands, of int32, that a TPU knows ahead of its transfers and index maps are given.
            stages: blocks in hand at once on a GPU; None is Triton's choice.

        Raises:
            ValueError: a TPU's or GPU's kernel is lowered for another platform (Pallas says so).
        """
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import tpu, triton

        if self.name == "triton":
            params: Any = triton.CompilerParams(num_stages=stages)
            spec: Any = pl.GridSpec(grid=tuple(grid), in_specs=in_specs, out_specs=out_specs)
        else:
            params = tpu.CompilerParams(dimension_semantics=("parallel",) * len(grid))
            spec = tpu.PrefetchScalarGridSpec(prefetched, grid=tuple(grid), in_specs=in_specs, out_specs=out_specs)
        return pl.pallas_call(
            kernel,
            grid_spec=spec,
            out_shape=out_shape,
            compiler_params=params,
            interpret=self.interpret,
            name=name,
        )


def pallas_backends(
    module: str,
    function: str,
    refuses: Callable[[Compiler], Callable[..., str | None] | None] = lambda compiler: None,
    leading: tuple[Any, ...] = (),
) -> tuple[Backend, ...]:
    """Backends `pallas_tpu`, `pallas_triton` and, only by name, their interpreters.

    Args:
        module: imported when a backend first runs.
        function: of the module; called with the op's arrays and `compiler=`.
        refuses: for a compiler, what `Backend.refuses` is to be.
        leading: arguments ahead of the arrays.
    """

    def backend(compiler: Compiler) -> Backend:
        def run(*arrays: Any) -> Any:
            return getattr(importlib.import_module(module), function)(*leading, *arrays, compiler=compiler)

        name = f"pallas_{compiler.name}{'_interpret' if compiler.interpret else ''}"
        platforms = () if compiler.interpret else PLATFORMS[compiler.name]
        return Backend(name, run, platforms, refuses(compiler), named_only=compiler.interpret, narrow=True)

    return tuple(
        backend(Compiler(name=name, interpret=interpret)) for interpret in (False, True) for name in ("tpu", "triton")
    )


def pad_axis(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    """`x` with zeros after it, so that an axis is a multiple of a number."""
    short = -x.shape[axis] % multiple
    return jax.numpy.pad(x, [(0, short if i == axis else 0) for i in range(x.ndim)]) if short else x
