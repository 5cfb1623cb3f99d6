"""Recordings by name: those that ship with the package, or a file of one's own."""

from functools import cache
from importlib import resources
from pathlib import Path

from gelato_jax.simulation import Recording, load

SHIPPED = ("short-greedy", "short-sampled", "long-greedy")
"""Of the default pair, on half of Spec-Bench; each file says how it was made (`Recording.about`)."""


@cache
def read_recording(name: str) -> Recording:
    """Read a recording.

    Args:
        name: one of `SHIPPED`, or the path of a file that `gelato record` wrote.

    Raises:
        ValueError: the file is no recording.
        OSError: there is none.
    """
    if name in SHIPPED:
        return load(Path(str(resources.files("gelato_experiments").joinpath("recordings", f"{name}.npz"))))
    return load(Path(name))
