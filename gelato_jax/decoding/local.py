"""The `local` system: this machine's own times, so that a controller governs wall-clock seconds.

No link and no power cap: with it a round's cost is the draft's steps and the target's window, as
they were measured here, once.
"""

import dataclasses
import hashlib
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

import gelato_kernels
from gelato_jax import control
from gelato_jax.decoding.catch_up import CATCH_UP_WINDOW
from gelato_jax.decoding.ends import decode_round
from gelato_jax.decoding.job import DecodeSettings, encode_prompts, make_job
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.prefill import prefill
from gelato_jax.decoding.records import DecodeState, DraftModel, Job, Lookup, Shapes
from gelato_jax.decoding.timing import alternate
from gelato_jax.files import read_json, write_json
from gelato_jax.models import Cache, Decoder, Model, allocate, write
from gelato_jax.system import System, local, preset
from gelato_kernels import native

PROBE_AFTER = 400
"""`control.ratio(probe_after=)` by the clock. Without a link a token is short, and a probe with its catching up takes
as long as some four: one per cent of the time (measured: two cores, the default pair)."""
_FEW, _MANY = 2, 10
"""Steps of two timed calls. Their difference is what the steps take: calls and empty caches cost both alike."""
_CALLS = 5
_POSITION = 256
"""Where the timed windows and rounds stand in the text; assumed typical. Attention costs a window of drafts more than a
pass for one token: rounds that were timed behind 40 tokens made drafts look up to a tenth too cheap behind hundreds."""
_PROMPT = 7 * tuple(range(1, 40))
"""Ids of the timed rounds' prompt; what they say does not matter to a clock."""
_SLOTS = 512
"""Of their caches: attention pays for the prefix that it reads, and each timed call for the memory that it is given."""
_SIZES = (1, 2, 3, 4, 5, 6, 9, 13, 17, 25)
"""Tokens of the windows that are timed, and the widest, where a window costs its tokens; lines lie between them."""
_FORMAT = 4
"""Of kept times: what they are has changed when this does."""


@partial(jax.jit, static_argnames="window")
def run_windows(model: Model, steps: ArrayLike, valid: ArrayLike, *, window: int) -> Array:
    """Run `steps` windows of `window` tokens at one place in a text, each fed by the last: `[1, window]` int32.

    Of each window `valid` tokens count.
    """
    decoder = model.bind()
    cache = allocate(decoder.config, 1, _SLOTS, decoder.cache_dtype)
    lengths = jnp.full((1,), _POSITION, jnp.int32)

    def step(_: Array, carry: tuple[Cache, Array]) -> tuple[Cache, Array]:
        cache, tokens = carry
        return run_window(decoder, cache, tokens, lengths, valid)

    return lax.fori_loop(0, steps, step, (cache, jnp.ones((1, window), jnp.int32)))[1]


def run_window(decoder: Decoder, cache: Cache, tokens: Array, lengths: Array, valid: ArrayLike) -> tuple[Cache, Array]:
    """One window `[B, T]` behind `lengths [B]`, of which `valid` tokens count: the cache, and each token's argmax."""
    valid = jnp.asarray(valid)
    x, fresh = decoder.forward(tokens, cache, lengths, valid)
    cache = write(cache, fresh, lengths, after=x)
    return cache, gelato_kernels.entropy(decoder.unembed(x, valid=valid)).argmax


def window_seconds(model: Model, window: int, sizes: Sequence[int] = ()) -> list[float]:
    """Seconds of a window through a model, head and argmax included: medians of a few calls in turn.

    Args:
        model: of which one program runs.
        window: its tokens.
        sizes: of its tokens how many count, in each window that is timed; all of them if not given.
    """
    sizes = sizes or (window,)
    runs = [partial(run_windows, model, steps, size, window=window) for size in sizes for steps in (_FEW, _MANY)]
    return _differences(alternate(*runs, calls=_CALLS))


def _differences(times: Sequence[Sequence[float]]) -> list[float]:
    """Seconds of a step from those of calls with `_FEW` and with `_MANY`, by turns: medians."""
    return [
        statistics.median(b - a for a, b in zip(few, many, strict=True)) / (_MANY - _FEW)
        for few, many in zip(times[::2], times[1::2], strict=True)
    ]


def time_draft(draft: DraftModel | Lookup) -> tuple[float, float]:
    """Seconds of a draft token, and of a committed token that the draft's cache is fed; none where it has no weights.

    Where a window costs its tokens, one beside the next input; else one of many, as a prompt's are: a single one, in a
    pass of its own, costs more than that.
    """
    if isinstance(draft, Lookup):
        return 0.0, 0.0
    model = draft.model
    if model.config.saves_tokens:
        token_s, both_s = window_seconds(model, 2, (1, 2))
        return token_s, max(both_s - token_s, 0.0)
    return window_seconds(model, 1)[0], window_seconds(model, CATCH_UP_WINDOW)[0] / CATCH_UP_WINDOW


@partial(jax.jit, static_argnames="shapes")
def run_rounds(state: DecodeState, job: Job, rounds: ArrayLike, *, shapes: Shapes) -> DecodeState:
    """Some rounds in one program."""
    return lax.fori_loop(0, rounds, lambda _, state: decode_round(state, job, shapes)[0], state)


def round_state(pair: Pair, shapes: Shapes, settings: DecodeSettings, *, rounds: int) -> tuple[DecodeState, Job]:
    """Arguments of `run_rounds`: a row behind its prompt that drafts all it can for at least so many rounds."""
    endless = dataclasses.replace(pair, eos_ids=(-1,), draft=_always(pair.draft))
    settings = dataclasses.replace(settings, max_new_tokens=(rounds + 1) * (shapes.max_draft_length + 1))
    job = make_job(
        endless,
        settings=settings,
        controller=control.static(shapes.max_draft_length),
        system=preset(),
        length_exit=control.length_exits.none(),
    )
    batch = encode_prompts(endless, [_PROMPT], settings)
    return jax.jit(prefill, static_argnames="shapes")(job, **batch, shapes=shapes), job


def _always(draft: DraftModel | Lookup) -> DraftModel | Lookup:
    """A draft that proposes in every round, whether anything repeats or not: to a clock it is the same."""
    if isinstance(draft, Lookup):
        return dataclasses.replace(draft, shortest=jnp.zeros_like(draft.shortest))
    return draft


def time_edge(pair: Pair, shapes: Shapes, draft_token_s: float) -> dict[int, float]:
    """Seconds of a verifier's windows, by their tokens: of whole rounds, less `draft_token_s` for each of their drafts.

    What a round takes beside its models, and what draft and target cost one another (they push each other's weights out
    of the near caches), is the window's here: passes that are timed alone, or without control, sampling and
    verification, would make drafting seem cheaper than it is. A window of one is a pass of a stream of tokens.
    """
    widest = shapes.windows[-1]
    saves = pair.target.config.saves_tokens
    sizes = [*(size for size in _SIZES if size < widest), widest] if saves else list(shapes.windows)
    settings = DecodeSettings(max_draft_length=shapes.max_draft_length, stream_length=widest)
    state, job = round_state(pair, shapes, settings, rounds=_MANY)
    of_length = lambda length: dataclasses.replace(job.policy, controller=control.static(length))  # noqa: E731
    runs = [
        partial(run_rounds, state, dataclasses.replace(job, policy=of_length(size - 1)), rounds, shapes=shapes)
        for size in sizes
        for rounds in (_FEW, _MANY)
    ]
    rounds = dict(zip(sizes, _differences(alternate(*runs, calls=_CALLS)), strict=True))
    rounds[1] /= widest
    return {size: max(rounds[size] - (size - 1) * draft_token_s, rounds[1]) for size in sizes}


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
        draft_token_s, catch_up_token_s = time_draft(pair.draft)
        times = {
            "draft_token_s": draft_token_s,
            "catch_up_token_s": catch_up_token_s,
            "window_s": {str(size): seconds for size, seconds in time_edge(pair, shapes, draft_token_s).items()},
        }
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, times)
    windows = {int(size): seconds for size, seconds in times["window_s"].items()}
    padded = not pair.target.config.saves_tokens
    return local(
        draft_token_s=times["draft_token_s"],
        prefill_token_s=times["catch_up_token_s"],
        window_s=windows,
        padded=padded,
    )


def _fingerprint(pair: Pair, shapes: Shapes) -> str:
    """What the times depend on: shapes of both models, window sizes, compiled kernels, processor, library."""
    device = jax.devices()[0]
    facts = (
        dataclasses.asdict(pair.target.config),
        "lookup" if isinstance(pair.draft, Lookup) else dataclasses.asdict(pair.draft.model.config),
        str(next(iter(pair.target.params.values())).dtype),
        shapes.windows,
        _SIZES,
        _FORMAT,
        native.instructions(),
        device.platform,
        device.device_kind,
        platform.processor(),
        os.cpu_count(),
        jax.__version__,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
