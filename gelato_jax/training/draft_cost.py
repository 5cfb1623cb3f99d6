"""What a draft token costs, as a share of the target's step: counted from the weights, and timed."""

import statistics
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

import gelato_kernels
from gelato_jax.decoding import DraftModel
from gelato_jax.decoding.job import SMALLEST_BUFFER
from gelato_jax.decoding.timing import alternate
from gelato_jax.models import Model, allocate, write

_POSITION = 128
"""Where the timed steps stand in the text; assumed typical of a short conversation."""
_STEPS = 16
"""Steps of a timed call."""
_CALLS = 15
"""Timed calls of each program, taken in turn; ratios are medians."""


def weight_shares(target: Model, draft: DraftModel) -> dict[str, list[float]]:
    """Weights that a draft token reads at each exit, as shares of a step of the target: `weights` and `bytes`, `[X]`.

    Counted whole, as `models.exit_work` counts; a head that checks whether to go deeper is read again for every check.
    Of an embedding one row is read, which does not count; tied to the head, it is read whole.
    """
    work = [float(share) for share in draft.work]
    return {
        "weights": [share * _read(draft.model, "size") / _read(target, "size") for share in work],
        "bytes": [share * _read(draft.model, "nbytes") / _read(target, "nbytes") for share in work],
    }


def _read(model: Model, size: str) -> int:
    """Weights that a token reads which passes every exit, checks included."""
    head, rows_only = ("embed.", ()) if model.config.tied_head else ("head.", ("embed.",))
    sizes = {path: getattr(array, size) for path, array in model.params.items() if not path.startswith(rows_only)}
    checks = 0 if model.config.exit_probes else len(model.config.exits) - 1
    return sum(sizes.values()) + checks * sum(count for path, count in sizes.items() if path.startswith(head))


@partial(jax.jit, static_argnames="exit_index")
def _run_steps(model: Model, *, exit_index: int) -> Array:
    """`_STEPS` one-row steps that leave at an exit, each fed by the last.

    Whole: the checks at the exits passed, the projections of the layers skipped, the head, the argmax.
    """
    decoder = model.bind()
    exits = decoder.config.exits
    cache = allocate(decoder.config, 1, max(SMALLEST_BUFFER, _POSITION + _STEPS + 1))
    checks = min(exit_index + 1, len(exits) - 1)

    def step(index: Array, carry):
        cache, token, seen = carry
        lengths = jnp.full((1,), _POSITION, jnp.int32) + index
        angles, x, fresh = decoder.angles(lengths, 1), decoder.embed_tokens(token), ()
        for number, (start, stop) in enumerate(zip((0, *exits), exits[: exit_index + 1], strict=False)):
            x, segment = decoder.run(x, angles, cache, lengths, start, stop)
            fresh = (*fresh, *segment)
            if number < checks:
                seen = seen + _check(decoder, number, decoder.exit_norm(number)(x))
        fresh = (*fresh, *decoder.skip(x, angles, exits[exit_index], decoder.config.num_layers))
        argmax = gelato_kernels.entropy(decoder.unembed(x, exit_index)).argmax
        # A target id that the draft lacks would be fed back in a decode; which token is fed costs the same.
        return write(cache, fresh, lengths, after=x), argmax, seen

    start = (cache, jnp.ones((1, 1), jnp.int32), jnp.zeros(()))
    _, token, seen = lax.fori_loop(0, _STEPS, step, start)
    return token.sum() + seen


def _check(decoder, number: int, normed: Array) -> Array:
    """What asking whether to go deeper costs."""
    if decoder.config.exit_probes:
        return decoder.exit_probes[number](normed).sum()
    return decoder.head_stats(normed).entropy.sum()


def measured_shares(target: Model, draft: DraftModel) -> dict[str, list[float] | float]:
    """Time one-row steps of the draft at each exit against the target's, in one process, in turn.

    Returns:
        `share` [X]: medians of the ratios call by call; `draft_s` [X] and `target_s`: medians of a step.
    """
    deepest = len(draft.model.config.exits)
    last = len(target.config.exits) - 1
    programs = [partial(_run_steps, target, exit_index=last)]
    programs += [partial(_run_steps, draft.model, exit_index=index) for index in range(deepest)]
    times = alternate(*programs, calls=_CALLS)
    shares = [statistics.median(a / b for a, b in zip(seconds, times[0], strict=True)) for seconds in times[1:]]
    return {
        "share": shares,
        "draft_s": [statistics.median(seconds) / _STEPS for seconds in times[1:]],
        "target_s": statistics.median(times[0]) / _STEPS,
    }
