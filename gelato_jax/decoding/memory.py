"""What keys and values take, said before it is asked for: on a CPU a process that asks for too much is killed."""

from pathlib import Path

import jax

from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.records import DraftModel
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model, allocate

_GB = 1e9
_CONTAINER = Path("/sys/fs/cgroup")
"""Limits of a Linux container, whose processes see the memory of its whole machine."""


def cache_bytes(pair: Pair, rows: int, slots: int) -> int:
    """Of the caches of `rows` texts with room for `slots` tokens each, of target and draft together."""
    models = [pair.target, pair.draft.model] if isinstance(pair.draft, DraftModel) else [pair.target]
    return sum(model_cache_bytes(model, rows, slots) for model in models)


def model_cache_bytes(model: Model, rows: int, slots: int) -> int:
    """Of one of them."""
    cache = jax.eval_shape(lambda: allocate(model.config, rows, slots, model.bind().cache_dtype))
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(cache))


def free_bytes() -> int | None:
    """What the default device can still give, None where it does not say."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        import psutil

        free = psutil.virtual_memory().available
        return min(free, left) if (left := _left_in_container()) is not None else free
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None


def _left_in_container() -> int | None:
    try:
        limit, used = ((_CONTAINER / name).read_text().strip() for name in ("memory.max", "memory.current"))
        # Files that are kept in memory count as used, and give way.
        kept = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())["inactive_file"]
        return None if limit == "max" else int(limit) - int(used) + int(kept)
    except (OSError, ValueError, KeyError):
        return None


def too_little_for(needed: int) -> int | None:
    """The bytes that are free where they are fewer than needed, else None."""
    free = free_bytes()
    return free if free is not None and free < needed else None


def refuse_what_does_not_fit(pair: Pair, rows: int, slots: int) -> None:
    """Raise where caches of so many texts would not fit the memory that is free.

    Raises:
        GelatoError: with both figures.
    """
    needed = cache_bytes(pair, rows, slots)
    if (free := too_little_for(needed)) is not None:
        raise GelatoError(
            f"{rows} {'text' if rows == 1 else 'texts'} of up to {slots:,} tokens need {needed / _GB:.2f} GB for keys "
            f"and values, and {free / _GB:.2f} GB are free: decode fewer at once, or shorter ones"
        )
