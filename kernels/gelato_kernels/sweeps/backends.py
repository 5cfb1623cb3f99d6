"""Backends of the ops that are made of sweeps."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array

from gelato_kernels import native as compiled
from gelato_kernels.blocks import block_size
from gelato_kernels.compilers import pallas_backends
from gelato_kernels.dispatch import Backend
from gelato_kernels.sweeps import native, xla
from gelato_kernels.warpgroups import THREADS, mosaic_backends


def sweep_backends(op: Callable[..., Any], reference: Callable[..., Any]) -> tuple[Backend, ...]:
    """Every backend of an op: its two-level form over the sweeps of each compiler, and its textbook form.

    Args:
        op: the two-level form; called with the op's arrays and `sweeps=`.
        reference: called with the op's arrays.
    """
    return (
        *pallas_backends("gelato_kernels.sweeps.pallas", "run", leading=(op,)),
        *mosaic_backends("gelato_kernels.sweeps.mosaic", "run", _short_rows, leading=(op,)),
        Backend("native", partial(op, sweeps=native.SWEEPS), platforms=("cpu",), lacks=compiled.reason),
        Backend("xla", partial(op, sweeps=xla.SWEEPS)),
        Backend("reference", reference),
    )


def _short_rows(logits: Array, *_: Any) -> str | None:
    vocab = logits.shape[-1]
    return f"rows of {vocab} tokens are no vectors of whole warpgroups" if block_size(vocab) % THREADS else None
