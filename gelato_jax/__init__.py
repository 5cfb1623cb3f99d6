"""Device-edge speculative decoding governed by an energy queue, compiled end to end in JAX.

Names are loaded when they are first used, so that importing the package is fast and starts nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gelato_jax import control, models, payloads, system, testing
    from gelato_jax.decoding import (
        DecodeSettings,
        Generation,
        Pair,
        Session,
        Stream,
        autoregressive,
        generate,
        report,
        stream,
    )

__version__ = "0.1.0"

__all__ = [
    "DecodeSettings",
    "Generation",
    "Pair",
    "Session",
    "Stream",
    "autoregressive",
    "control",
    "generate",
    "models",
    "payloads",
    "report",
    "stream",
    "system",
    "testing",
]

_MODULES = ("control", "models", "payloads", "system", "testing")


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.decoding"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
