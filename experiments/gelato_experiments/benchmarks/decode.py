"""What the decode loop adds to the models it runs: every figure a ratio of times of one run.

- `autoregressive_over_bare`: a step of the baseline loop over a bare step (forward pass, head, argmax);
- `round_over_parts`: a round of speculative decoding over the models' passes in it, by turns in a loop of their own:
  draft steps, the verification window, the draft's reading of a token that it did not draft from;
- `overhead_share`: the share of a round spent on everything but the models (control, entropy, sampling,
  verification): the same rounds of small models with the pair's vocabularies, less those models' own passes.

Compilation is apart, results are waited for, and the ratios are medians of alternating calls, so
that a machine that slows down slows both sides.
"""

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from gelato_jax.config import ModelConfig
from gelato_jax.decoding import DecodeSettings, Job, Pair, Shapes, encode_prompts, make_job, with_weights
from gelato_jax.decoding.catch_up import catch_up
from gelato_jax.decoding.ends import decode_round
from gelato_jax.decoding.local import round_state, run_rounds, run_window, run_windows
from gelato_jax.decoding.programs import decode_autoregressive
from gelato_jax.decoding.records import DecodeState
from gelato_jax.decoding.timing import alternate
from gelato_jax.models import Cache, Decoder, Model, random_model, write

CALLS = 15
"""Timed calls of each program; medians are reported."""
FEW, MANY = 2, 26
"""Steps, or rounds, of two timed calls. Their difference is what these take: calls cost both alike."""
PROMPT = tuple(range(1, 40))
"""Token ids; what they say does not matter to a clock."""
_TOKENS = 64
"""Of these ids a pass without an argmax makes up its next tokens."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Seconds and ratios of one benchmark run."""

    bare_step_s: float
    autoregressive_step_s: float
    autoregressive_over_bare: float
    autoregressive_tokens_per_s: float
    draft_step_s: float
    window_s: float
    round_s: float
    round_over_parts: float
    overhead_share: dict[str, float]


def run(pair: Pair, *, draft_length: int = 4, progress: Callable[[str], None] = lambda stage: None) -> Result:
    """Time a pair.

    Args:
        pair: draft and target.
        draft_length: tokens drafted in every timed round.
        progress: told what is being timed.
    """
    shapes = Shapes(max_draft_length=draft_length)
    progress("autoregressive decoding")
    bare, step = _autoregressive(pair)
    progress("rounds")
    round_s, draft_s, window_s, over_parts = _rounds(pair, shapes)
    samplings = {"greedy": {}, "temperature": {"temperature": 0.8}, "top_p": {"temperature": 0.8, "top_p": 0.9}}
    shares = {}
    for name, sampling in samplings.items():
        progress(f"overhead, {name}")
        shares[name] = _overhead(pair, shapes, DecodeSettings(max_draft_length=draft_length, **sampling)) / round_s
    return Result(
        bare_step_s=bare,
        autoregressive_step_s=step[0],
        autoregressive_over_bare=step[1],
        autoregressive_tokens_per_s=1.0 / step[0],
        draft_step_s=draft_s,
        window_s=window_s,
        round_s=round_s,
        round_over_parts=over_parts,
        overhead_share=shares,
    )


def _ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios call by call: neighbours in time, so a slow moment cancels."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def _seconds(*programs: Callable[[int], object]) -> list[list[float]]:
    """Seconds of each program's step, call by call; a program is told how many steps to run."""
    times = alternate(*(partial(program, steps) for program in programs for steps in (FEW, MANY)), calls=CALLS)
    return [
        [(b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True)]
        for few, many in zip(times[::2], times[1::2], strict=True)
    ]


def _autoregressive(pair: Pair) -> tuple[float, tuple[float, float]]:
    """Seconds of a bare step; of a step of the baseline loop; and the ratio of the two."""
    settings = {steps: DecodeSettings(max_new_tokens=steps) for steps in (FEW, MANY)}
    job = make_job(dataclasses.replace(pair, eos_ids=(-1,)), settings=settings[MANY])
    batches = {steps: encode_prompts(pair, [PROMPT], some) for steps, some in settings.items()}
    shapes = settings[MANY].shapes
    bare, loop = _seconds(
        lambda steps: run_windows(pair.target, steps, 1, window=1),
        lambda steps: decode_autoregressive(job, **batches[steps], shapes=shapes),
    )
    return statistics.median(bare), (statistics.median(loop), _ratio(loop, bare))


@partial(jax.jit, static_argnames=("shapes", "rounds"))
def _course(state: DecodeState, job: Job, *, shapes: Shapes, rounds: int) -> tuple[Array, Array]:
    """Of some rounds, whether the draft is fed a committed token ahead of drafting, bool, and the text's length, int32.

    Both `[rounds]`.
    """

    def step(state: DecodeState, _: None) -> tuple[DecodeState, tuple[Array, Array]]:
        length = state.device.length[0]
        state, seen = decode_round(state, job, shapes)
        return state, (seen.caught_up[0] > 0, length)

    return lax.scan(step, state, length=rounds)[1]


@partial(jax.jit, static_argnames=("size", "argmax"))
def _run_parts(
    state: DecodeState, job: Job, course: tuple[Array, Array], rounds: int, *, size: int, argmax: bool = True
) -> tuple[Cache, Cache, Array]:
    """The models' passes of some rounds, in their order and where they stand in the text, and nothing else.

    With `argmax` a pass finds its tokens, as a bare step does; else logits are all that it makes.
    """
    window_of = run_window if argmax else _run_logits
    device, draft, target = state.device, with_weights(job.draft).model.bind(), job.target.bind()
    fed, ends = course

    def run(index: Array, carry: tuple[Cache, Cache, Array]) -> tuple[Cache, Cache, Array]:
        behind, verified, tokens = carry
        lengths = ends[index, None] - 1
        lagging = dataclasses.replace(device, cache=behind, cache_length=lengths - 1)
        behind, _ = catch_up(draft, lagging, ~device.done & fed[index])

        def step(drafted: Array, drafting: tuple[Cache, Array]) -> tuple[Cache, Array]:
            return window_of(draft, *drafting, lengths + drafted, 1)

        behind, last = lax.fori_loop(0, size, step, (behind, tokens[:, :1]))
        window = jnp.broadcast_to(last, tokens.shape)
        return (behind, *window_of(target, verified, window, lengths, size + 1))

    start = (device.cache, state.edge.cache, jnp.zeros((1, size + 1), jnp.int32))
    return lax.fori_loop(0, rounds, run, start)


def _run_logits(decoder: Decoder, cache: Cache, tokens: Array, lengths: Array, valid: int) -> tuple[Cache, Array]:
    """As `run_window`, but tokens are taken from the first logits: all are made, none is read twice."""
    x, fresh = decoder.forward(tokens, cache, lengths, jnp.asarray(valid))
    logits = lax.optimization_barrier(decoder.unembed(x, valid=jnp.asarray(valid)))
    return write(cache, fresh, lengths, after=x), logits[..., 0].astype(jnp.int32) % _TOKENS


def _rounds(pair: Pair, shapes: Shapes) -> tuple[float, float, float, float]:
    """Seconds of a round, of a draft step and of its window, and the round over its parts.

    Parts run by turns in one loop, as they do in a round: alone, each would find its weights in a cache.
    """
    size = shapes.max_draft_length
    state, job = round_state(pair, shapes, DecodeSettings(max_draft_length=size), rounds=MANY)
    course = _course(state, job, shapes=shapes, rounds=MANY)
    rounds, parts, drafts, windows = _seconds(
        lambda rounds: run_rounds(state, job, rounds, shapes=shapes),
        lambda rounds: _run_parts(state, job, course, rounds, size=size),
        lambda rounds: run_windows(with_weights(pair.draft).model, rounds * size, 1, window=1),
        lambda rounds: run_windows(pair.target, rounds, size + 1, window=size + 1),
    )
    seconds = (statistics.median(rounds), statistics.median(drafts) / size)
    return *seconds, statistics.median(windows), _ratio(rounds, parts)


def _overhead(pair: Pair, shapes: Shapes, settings: DecodeSettings) -> float:
    """Seconds of a round beside its models: one of small models with the pair's vocabularies, less their passes."""
    target, draft = hollow(pair.target.config, 0), hollow(with_weights(pair.draft).model.config, 1)
    empty = dataclasses.replace(pair, target=target, draft=dataclasses.replace(pair.draft, model=draft))
    state, job = round_state(empty, shapes, settings, rounds=MANY)
    course = _course(state, job, shapes=shapes, rounds=MANY)
    rounds, passes = _seconds(
        lambda rounds: run_rounds(state, job, rounds, shapes=shapes),
        lambda rounds: _run_parts(state, job, course, rounds, size=shapes.max_draft_length, argmax=False),
    )
    return statistics.median(a - b for a, b in zip(rounds, passes, strict=True))


_LAST_NORMS = ("norm", "exit_norms")
_SHARPNESS = 6.0
"""Of random logits over 49,152 tokens, for a mean entropy of 1.9 nats: even ones would have top-p sort all of them."""


def hollow(config: ModelConfig, seed: int) -> Model:
    """A random decoder of the same outputs and exits, as peaked as text is, all else as small as it can be."""
    exits = tuple(range(1, len(config.exits) + 1))
    small = {"hidden_size": 32, "mlp_size": 32, "num_heads": 1, "num_kv_heads": 1, "head_dim": 32}
    model = random_model(dataclasses.replace(config, **small, num_layers=len(exits), exits=exits), seed)
    norms = {path: array * _SHARPNESS for path, array in model.params.items() if path.split(".")[0] in _LAST_NORMS}
    return dataclasses.replace(model, params={**model.params, **norms})
