"""What the decode loop adds to the models it runs: every figure a ratio of times of one run.

- `autoregressive_over_bare`: a step of the baseline loop over a bare step (forward pass, head, argmax);
- `round_over_parts`: a round of speculative decoding over its draft steps and its verification window;
- `overhead_share`: the share of a round spent on everything but the models (control, entropy,
  sampling, verification), measured by running the same rounds on models too small to count.

Compilation is apart, results are waited for, and the ratios are medians of alternating calls, so
that a machine that slows down slows both sides.
"""

import dataclasses
import statistics
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax import lax

from gelato_jax import control, system, testing
from gelato_jax.decoding import DecodeSettings, Job, Pair, Shapes, encode_prompts, make_draft, make_job
from gelato_jax.decoding.ends import decode_round
from gelato_jax.decoding.local import run_windows
from gelato_jax.decoding.prefill import prefill
from gelato_jax.decoding.programs import decode_autoregressive
from gelato_jax.decoding.records import DecodeState
from gelato_jax.decoding.timing import alternate
from gelato_jax.models import random_model

CALLS = 15
"""Timed calls of each program; medians are reported."""
ROUNDS = 12
"""Rounds in a timed call."""
PROMPT = tuple(range(1, 40))
"""Token ids; what they say does not matter to a clock."""


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


def _autoregressive(pair: Pair) -> tuple[float, tuple[float, float]]:
    """Seconds of a bare step; of a step of the baseline loop; and the ratio of the two."""
    short, long = 2, 50
    endless = dataclasses.replace(pair, eos_ids=(-1,))

    def decode(new_tokens: int) -> Callable[[], object]:
        settings = DecodeSettings(max_new_tokens=new_tokens)
        job, batch = make_job(endless, settings=settings), encode_prompts(endless, [PROMPT], settings)
        return lambda: decode_autoregressive(job, **batch, shapes=settings.shapes)

    steps = long - short
    bare, few, many = alternate(
        lambda: run_windows(pair.target, window=1, steps=steps), decode(short), decode(long), calls=CALLS
    )
    loop = [(b - a) / steps for a, b in zip(few, many, strict=True)]
    bare = [seconds / steps for seconds in bare]
    return statistics.median(bare), (statistics.median(loop), _ratio(loop, bare))


@partial(jax.jit, static_argnames="shapes")
def _run_rounds(state: DecodeState, job: Job, *, shapes: Shapes) -> DecodeState:
    """`ROUNDS` rounds in one program."""
    return lax.fori_loop(0, ROUNDS, lambda _, s: decode_round(s, job, shapes)[0], state)


def _round_program(pair: Pair, shapes: Shapes, settings: DecodeSettings) -> Callable[[], object]:
    endless = dataclasses.replace(pair, eos_ids=(-1,))
    settings = dataclasses.replace(settings, max_new_tokens=(ROUNDS + 1) * (shapes.max_draft_length + 1))
    job = make_job(
        endless,
        settings=settings,
        controller=control.static(shapes.max_draft_length),
        system=system.preset(),
        length_exit=control.length_exits.none(),
    )
    batch = encode_prompts(endless, [PROMPT], settings)
    state = jax.jit(prefill, static_argnames="shapes")(job, **batch, shapes=shapes)
    return lambda: _run_rounds(state, job, shapes=shapes)


def _rounds(pair: Pair, shapes: Shapes) -> tuple[float, float, float, float]:
    """Seconds of a round, of a draft step and of its window, and the round over the sum of its parts."""
    size = shapes.max_draft_length
    rounds, drafts, windows = alternate(
        _round_program(pair, shapes, DecodeSettings(max_draft_length=size)),
        lambda: run_windows(pair.draft.model, window=1, steps=ROUNDS * size),
        lambda: run_windows(pair.target, window=size + 1, steps=ROUNDS),
        calls=CALLS,
    )
    parts = [a + b for a, b in zip(drafts, windows, strict=True)]
    seconds = (statistics.median(rounds) / ROUNDS, statistics.median(drafts) / ROUNDS / size)
    return *seconds, statistics.median(windows) / ROUNDS, _ratio(rounds, parts)


def _overhead(pair: Pair, shapes: Shapes, settings: DecodeSettings) -> float:
    """Seconds of a round whose models cost next to nothing but whose vocabulary is the pair's.

    An upper bound of what is not the models: the hollow layers and heads are still in it.
    """
    vocab_size = pair.target.config.valid_outputs
    config = testing.tiny_config(vocab_size, 1, hidden_size=8, mlp_size=8, num_heads=1, tied_head=True)
    target, draft = random_model(config, 0), random_model(config, 1)
    hollow = dataclasses.replace(pair, target=target, draft=make_draft(draft))
    (times,) = alternate(_round_program(hollow, shapes, settings), calls=CALLS)
    return float(np.median(times)) / ROUNDS
