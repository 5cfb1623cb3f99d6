"""Which implementation serves a call; shared by every op.

An op lists its backends in order of preference. A backend for an accelerator names its platforms
and says which inputs it refuses; one without platforms runs everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import backend as jax_backend


class Backend(NamedTuple):
    """One implementation of an op."""

    name: str
    run: Callable[..., Any]
    platforms: tuple[str, ...] = ()  # names of jax's platforms ("cpu", "cuda", "rocm", "tpu"); empty: all of them
    refuses: Callable[..., str | None] | None = None  # called with the op's arrays; why it cannot serve them, or None
    named_only: bool = False  # never chosen, only asked for: interpreters, and twins of another backend
    lacks: Callable[[], str | None] | None = None  # what this machine lacks for it, or None; asked when traced for it
    narrow: bool = False  # takes bfloat16 and float16 as they are; others get float32


def dispatch(op: str, backends: Sequence[Backend], implementation: str | None, *arrays: Any) -> Any:
    """Run `op` by the named backend, or by the first that serves the inputs on each platform.

    The platform is the one the program is lowered for, not the process's default, so a function
    jitted for the CPU of a GPU machine gets the CPU's backend. Platforms that the process has no
    device of are left out: a CPU never traces an accelerator's kernels. A program that is compiled
    for a device elsewhere names its implementation.

    Args:
        op: public name of the op, for messages.
        backends: in order of preference; at least one serves every platform and every input.
        implementation: a backend's name, or None.
        *arrays: the op's arrays (pytrees, None allowed), positionally.

    Returns:
        What the backend returns.

    Raises:
        ValueError: no backend of that name, or it cannot serve these inputs.
    """
    if implementation is not None:
        named = {backend.name: backend for backend in backends}
        if implementation not in named:
            raise ValueError(f"{op}: no implementation {implementation!r}, there are {sorted(named)}")
        backend = named[implementation]
        lacking = backend.lacks() if backend.lacks else None
        if lacking is not None:
            raise ValueError(f"{op}: implementation {implementation!r} is not available: {lacking}")
        reason = backend.refuses(*arrays) if backend.refuses else None
        if reason is not None:
            raise ValueError(f"{op}: implementation {implementation!r} cannot serve these inputs: {reason}")
        return _run(backend)(*arrays)
    chosen = [backend for backend in backends if not backend.named_only]
    able = [backend for backend in chosen if backend.refuses is None or backend.refuses(*arrays) is None]
    everywhere = next(i for i, backend in enumerate(able) if not backend.platforms)
    present = _platforms()
    special: dict[str, Callable[..., Any]] = {}
    for backend in able[:everywhere]:
        served = present.intersection(backend.platforms).difference(special)
        if not served or (backend.lacks and backend.lacks() is not None):
            continue
        for platform in served:
            special[platform] = _run(backend)
    # Where there is no choice none is traced: a program's other branches would double the time to make it.
    if not special:
        return _run(able[everywhere])(*arrays)
    if len(present) == 1:
        return special[present.pop()](*arrays)
    return lax.platform_dependent(*arrays, default=_run(able[everywhere]), **special)


def runnable(backends: Sequence[Backend]) -> list[str]:
    """Names of the backends that run in this process, interpreters among them."""
    present = _platforms()
    return [
        backend.name
        for backend in backends
        if (not backend.platforms or present.intersection(backend.platforms))
        and (backend.lacks is None or backend.lacks() is None)
    ]


def _platforms() -> set[str]:
    """Platforms of this process's devices, by the names that programs are lowered for."""
    return set(jax_backend.backends())


def _run(backend: Backend) -> Callable[..., Any]:
    """The backend's function, its narrow floats widened where it does not take them."""
    if backend.narrow:
        return backend.run
    return lambda *arrays: backend.run(*jax.tree.map(_widen, arrays))


def _widen(x: Array) -> Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
