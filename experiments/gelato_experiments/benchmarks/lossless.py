"""Losslessness of the whole product on real prompts: greedy speculative text against the target's own.

Windows of different sizes sum in different orders, so a near-tie between two logits can fall either
way. The other branch is accepted only where the tie is shown: both texts agree up to a position at
which the target, run over the common prefix, scores the two tokens within rounding of each other.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from gelato_jax import control, generate
from gelato_jax.control import Controller
from gelato_jax.decoding import DecodeSettings, Pair, autoregressive
from gelato_jax.models import Model, allocate

TIE_UNITS = 64
"""Units in the last place of the largest logit within which two logits count as tied: float32 sums of
some thousand terms, in another order, differ by a few tens."""
_EPSILON = 2.0**-23
_CHUNK = 256


OUTCOMES = ("equal", "tie", "different")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How one prompt fared under one controller."""

    controller: str
    prompt: int
    outcome: str  # one of OUTCOMES
    position: int | None = None  # first token that differs
    gap: float | None = None  # between the two tokens' logits there
    tolerance: float | None = None


def controllers() -> dict[str, Controller]:
    """Every controller, with numbers under which it drafts."""
    return {
        "static": control.static(4),
        "hf_schedule": control.hf_schedule(),
        "ratio": control.ratio(power_budget_w=3.0, penalty_weight=100.0),
        "gelato": control.gelato(power_budget_w=3.0, penalty_weight=100.0),
    }


def run(
    pair: Pair,
    prompts: Sequence[str],
    *,
    settings: DecodeSettings,
    choices: Mapping[str, Controller] | None = None,
) -> Iterator[list[Verdict]]:
    """Decode every prompt alone and under every controller, greedily, and compare.

    Args:
        pair: draft and target.
        prompts: texts.
        settings: lengths; the temperature must be 0.
        choices: controllers by name; all of them if not given.

    Yields:
        A prompt's verdicts, one for each controller.
    """
    choices = controllers() if choices is None else choices
    for number, prompt in enumerate(prompts):
        ids = pair.tokenizer.chat_prompt(prompt)
        (expected,) = autoregressive(pair, [ids], settings=settings)
        verdicts = []
        for index, name in enumerate(choices):
            # Chosen by a traced index: one program serves every controller.
            chosen = control.select_controller(tuple(choices.values()), index)
            (found,) = generate(pair, [ids], settings=settings, controller=chosen).tokens
            verdicts.append(compare(pair.target, ids, expected, found, name, number))
        yield verdicts


def compare(
    target: Model, prompt: Sequence[int], expected: Sequence[int], found: Sequence[int], controller: str, number: int
) -> Verdict:
    """Compare two greedy texts; where they part, ask the target whether it is a tie."""
    if list(expected) == list(found):
        return Verdict(controller, number, "equal")
    shared = min(len(expected), len(found))
    position = next((i for i in range(shared) if expected[i] != found[i]), shared)
    if position == shared:
        return Verdict(controller, number, "different", position)
    logits = _last_logits(target, [*prompt, *expected[:position]])
    gap = float(abs(logits[expected[position]] - logits[found[position]]))
    tolerance = TIE_UNITS * _EPSILON * float(jnp.abs(logits).max())
    outcome = "tie" if gap <= tolerance else "different"
    return Verdict(controller, number, outcome, position, gap, tolerance)


def _last_logits(target: Model, ids: Sequence[int]) -> jax.Array:
    """The target's logits behind `ids`, `[V]`."""
    padded = jnp.zeros((1, -(-len(ids) // _CHUNK) * _CHUNK), jnp.int32).at[0, : len(ids)].set(jnp.asarray(ids))
    return _logits_at(target, padded, jnp.asarray(len(ids) - 1))


@jax.jit
def _logits_at(target: Model, tokens: jax.Array, position: jax.Array) -> jax.Array:
    decoder = target.bind()
    empty = allocate(decoder.config, 1, 1, decoder.cache_dtype)
    x, _ = decoder.forward(tokens, empty, jnp.zeros((1,), jnp.int32))
    return decoder.unembed(x[0, position])
