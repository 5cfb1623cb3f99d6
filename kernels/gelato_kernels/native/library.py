"""The compiled library of this process: loaded once, when first asked for, its handlers registered with XLA."""

import ctypes
import functools
import os
import threading

import jax

VARIABLE = "GELATO_NATIVE"
"""Environment variable: `0` leaves the library out. `GELATO_NATIVE_ISA` is read by the library itself."""
HANDLERS = tuple(
    f"gelato_{name}"
    for name in (
        "block_matmul",
        "residual",
        "rotary_attention",
        "statistics",
        "warp",
        "window_attention",
        "write_window",
    )
)

_lock = threading.Lock()


def available() -> bool:
    """Whether this machine has the compiled kernels; compiles them if it must."""
    return reason() is None


def reason() -> str | None:
    """Why there are no compiled kernels here, in one line; None where there are."""
    with _lock:
        return _load()[1]


def prepare() -> None:
    """Begin to compile them, if that must be, beside what the caller does next; who asks later waits for it.

    A process that ends meanwhile does not; what it leaves half-made the next build removes.
    """
    threading.Thread(target=available, daemon=True).start()


def instructions() -> str | None:
    """The set that the kernels use: `generic`, `avx2`, `avx512`, `neon`, `dotprod`; None where there are no kernels."""
    with _lock:
        return _load()[0]


@functools.cache
def _load() -> tuple[str | None, str | None]:
    """Instructions, and why there are none."""
    if os.environ.get(VARIABLE) == "0":
        return None, f"{VARIABLE}=0"
    if (platform := jax.default_backend()) != "cpu":  # nobody waits for a compiler to use a GPU
        return None, f"this process computes on a {platform}"
    from gelato_kernels.native import build

    try:
        library = ctypes.CDLL(str(build.library()))
        for name in HANDLERS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except build.BuildError as error:
        return None, str(error)
    except (OSError, AttributeError) as error:  # of another system, or for another jax
        return None, f"the compiled library does not load: {str(error).splitlines()[0]}"
    library.gelato_isa.restype = ctypes.c_char_p
    return library.gelato_isa().decode(), None
