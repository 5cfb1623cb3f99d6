"""Where compiled programs are kept between runs of the command."""

import re
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

_REJECTED = re.compile(r"Error reading persistent compilation cache entry for '([^'/]+)'")
"""JAX's warning, one for each program; its files begin with the name."""


def keep_programs() -> None:
    """Keep every compiled program under the user's cache directory, so that the next start is fast."""
    import jax

    from gelato_checkpoints import cache_directory

    folder = cache_directory() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _replace_rejected(folder)


@cache
def _replace_rejected(folder: Path) -> None:
    """Remove kept programs that JAX warns it cannot load, and put one line in place of its warnings.

    JAX never replaces a file that is there, so what a killed process or a full disk left half-written would be
    rejected at every start. XLA does so to all programs of some CPUs, whose tuning it takes for a feature that the
    machine lacks (jax issue 38445).
    """
    show, said = warnings.showwarning, False

    def show_others(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        nonlocal said
        if not (rejected := _REJECTED.match(str(message))):
            return show(message, *args, **kwargs)
        for file in folder.glob(f"{rejected[1]}-*"):
            file.unlink(missing_ok=True)
        if not said:
            said = True
            print(
                f"gelato: programs kept in {folder} could not be loaded and are compiled again; if this line comes "
                "back at every start, JAX cannot reload programs of this CPU",
                file=sys.stderr,
            )

    warnings.showwarning = show_others
