"""Whether two implementations gave the same."""

from typing import Any

import jax
import numpy as np


def difference(result: Any, expected: Any, *, tolerance: float, strays: float) -> str | None:
    """What sets a result apart from the expected one.

    Args:
        result: of one implementation; a pytree of arrays.
        expected: of the reference.
        tolerance: largest difference of two floats, as a share of the largest magnitude of their array.
        strays: share of an array's floats that may be finite in one and not in the other.

    Returns:
        One line, or None where they agree.
    """
    if jax.tree.structure(result) != jax.tree.structure(expected):
        return f"{jax.tree.structure(result)} instead of {jax.tree.structure(expected)}"
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(result), jax.tree.leaves(expected), strict=True):
        fault = _of_arrays(np.asarray(ours), np.asarray(theirs), tolerance, strays)
        if fault is not None:
            return f"{jax.tree_util.keystr(path) or 'result'}: {fault}"
    return None


def _of_arrays(ours: np.ndarray, theirs: np.ndarray, tolerance: float, strays: float) -> str | None:
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return f"{ours.dtype}{list(ours.shape)} instead of {theirs.dtype}{list(theirs.shape)}"
    if not np.issubdtype(theirs.dtype, np.floating):
        apart = np.count_nonzero(ours != theirs)
        return f"{apart} of {theirs.size} differ" if apart else None
    finite = np.isfinite(ours) & np.isfinite(theirs)
    apart = np.count_nonzero(~finite & (ours != theirs))
    if apart > strays * theirs.size:
        return f"{apart} of {theirs.size} are finite in one and not in the other"
    ours, theirs = np.where(finite, ours, 0), np.where(finite, theirs, 0)
    largest, error = np.max(np.abs(theirs), initial=0), np.max(np.abs(ours - theirs), initial=0)
    return f"off by {error:.2g}, of {largest:.2g}" if error > tolerance * largest else None
