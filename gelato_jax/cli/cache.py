"""Where compiled programs are kept between runs of the command."""


def keep_programs() -> None:
    """Keep every compiled program under the user's cache directory, so that the next start is fast."""
    import jax

    from gelato_checkpoints import cache_directory

    jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
