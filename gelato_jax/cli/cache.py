"""Where compiled programs are kept between runs of the command."""

import sys
import warnings
from functools import cache
from typing import Any

_REJECTED = "Error reading persistent compilation cache entry"  # how JAX's warning begins, one for each program


def keep_programs() -> None:
    """Keep every compiled program under the user's cache directory, so that the next start is fast."""
    import jax

    from gelato_checkpoints import cache_directory

    folder = cache_directory() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    _say_rejections_once(str(folder))


@cache
def _say_rejections_once(folder: str) -> None:
    """Put one line in place of JAX's warnings about kept programs that it cannot load.

    JAX never replaces a file that is there, so what is rejected once is rejected at every start. XLA does so to all
    programs of some CPUs, whose tuning it takes for a feature that the machine lacks (jax issue 38445).
    """
    show, said = warnings.showwarning, False

    def show_others(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        nonlocal said
        if not str(message).startswith(_REJECTED):
            show(message, *args, **kwargs)
        elif not said:
            said = True
            print(
                f"gelato: programs kept in {folder} cannot be loaded and are compiled again, now and at every start; "
                "remove that folder, and if this line comes back, JAX cannot reload programs of this CPU",
                file=sys.stderr,
            )

    warnings.showwarning = show_others
