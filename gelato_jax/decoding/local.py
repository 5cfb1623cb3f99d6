"""The `local` system: this machine's own times, so that a controller governs wall-clock seconds.

No link and no power cap: with it a round's cost is the draft's steps and the target's window, as
they were measured here, once.
"""

import dataclasses
import hashlib
import os
import platform
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding.job import SMALLEST_BUFFER
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.records import Shapes
from gelato_jax.decoding.timing import alternate
from gelato_jax.files import read_json, write_json
from gelato_jax.models import Model, allocate, write
from gelato_jax.system import System, local

_STEPS = 16
"""Steps per timed call: enough to hide the call, few enough to stay short."""
_CALLS = 5
_POSITION = 128
"""Where the timed windows stand in the text; assumed typical of a short conversation."""


@partial(jax.jit, static_argnames=("window", "steps"))
def run_windows(model: Model, *, window: int, steps: int) -> Array:
    """Run `steps` windows of `window` tokens after one another, each fed by the last: `[1, window]` int32."""
    decoder = model.bind()
    # As many slots as a decode has: attention is part of a step, and pays for the prefix it reads.
    slots = max(SMALLEST_BUFFER, _POSITION + window * (steps + 1))
    cache = allocate(decoder.config, 1, slots, decoder.cache_dtype)

    def step(index: Array, carry):
        cache, tokens = carry
        lengths = jnp.full((1,), _POSITION, jnp.int32) + index * window
        x, fresh = decoder.forward(tokens, cache, lengths)
        cache = write(cache, fresh, lengths, after=x)
        return cache, gelato_kernels.entropy(decoder.unembed(x)).argmax

    return lax.fori_loop(0, steps, step, (cache, jnp.ones((1, window), jnp.int32)))[1]


def window_seconds(model: Model, window: int) -> float:
    """Seconds of one window through a model, head and argmax included: the median of a few calls."""
    (seconds,) = alternate(partial(run_windows, model, window=window, steps=_STEPS), calls=_CALLS)
    return statistics.median(seconds) / _STEPS


def measure_local_system(
    pair: Pair,
    shapes: Shapes,
    cache: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> System:
    """This machine as a system: the draft's step and the target's windows, no link, no waiting power.

    Args:
        pair: whose models are timed.
        shapes: whose windows are timed.
        cache: a folder; times are read from it if this pair was timed on this machine, and kept there.
        progress: told `time` where they are taken.
    """
    file = None if cache is None else cache / f"{_fingerprint(pair, shapes)}.json"
    times = None if file is None else read_json(file)
    if times is None:
        progress("time", 0, 0)
        times = {
            "draft_token_s": window_seconds(pair.draft.model, 1),
            "window_s": {str(size): window_seconds(pair.target, size) for size in shapes.windows},
        }
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, times)
    windows = {int(size): seconds for size, seconds in times["window_s"].items()}
    return local(draft_token_s=times["draft_token_s"], window_s=windows)


def _fingerprint(pair: Pair, shapes: Shapes) -> str:
    """What the times depend on: shapes of both models, window sizes, processor, library."""
    device = jax.devices()[0]
    facts = (
        dataclasses.asdict(pair.target.config),
        dataclasses.asdict(pair.draft.model.config),
        str(next(iter(pair.target.params.values())).dtype),
        shapes.windows,
        device.platform,
        device.device_kind,
        platform.processor(),
        os.cpu_count(),
        jax.__version__,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
