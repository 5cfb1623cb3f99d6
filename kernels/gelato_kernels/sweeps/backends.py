"""Backends of the ops that are made of sweeps."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array

from gelato_kernels.blocks import block_size
from gelato_kernels.dispatch import Backend
from gelato_kernels.sweeps import xla
from gelato_kernels.targets import pallas_backends

_WARPGROUP = 128  # threads


def sweep_backends(op: Callable[..., Any], reference: Callable[..., Any]) -> tuple[Backend, ...]:
    """Every backend of an op: its two-level form over the sweeps of each compiler, and its textbook form.

    Args:
        op: the two-level form; called with the op's arrays and `sweeps=`.
        reference: called with the op's arrays.
    """
    return (
        *pallas_backends("gelato_kernels.sweeps.pallas", "run", leading=(op,)),
        *(_mosaic_backend(op, interpret) for interpret in (False, True)),
        Backend("xla", partial(op, sweeps=xla.SWEEPS)),
        Backend("reference", reference),
    )


def _mosaic_backend(op: Callable[..., Any], interpret: bool) -> Backend:
    """The twin of `pallas_triton` for Mosaic GPU, only by name until one of the two has been measured."""

    def run(*arrays: Any) -> Any:
        return importlib.import_module("gelato_kernels.sweeps.mosaic").run(op, *arrays, interpret=interpret)

    name = "mosaic_gpu_interpret" if interpret else "mosaic_gpu"
    return Backend(name, run, () if interpret else ("cuda",), _short_rows, named_only=True, narrow=True)


def _short_rows(logits: Array, *_: Any) -> str | None:
    vocab = logits.shape[-1]
    return f"rows of {vocab} tokens are no vectors of whole warpgroups" if block_size(vocab) % _WARPGROUP else None
