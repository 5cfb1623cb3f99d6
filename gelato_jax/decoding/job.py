"""What a decode is asked for: settings and choices made into a job, prompts into one buffer."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax import control
from gelato_jax import system as world
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.records import Job, Policy, Sampling, Shapes

SMALLEST_BUFFER = 1024
"""Token slots of the smallest buffer. Attention follows the text, so a short prompt pays nothing for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """What a user sets about a decode.

    Only `max_draft_length` and `prefill_chunk` shape the program; the rest are numbers in it.

    Attributes:
        max_draft_length: G, most tokens drafted in a round.
        max_new_tokens: tokens generated at most, for each prompt.
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens of the target's law; 0 keeps all.
        top_p: keep the likeliest tokens up to this mass; 1 keeps all.
        seed: random numbers; the same seed, settings and batch give the same text.
        prefill_chunk: tokens of a prompt run at a time.
    """

    max_draft_length: int = 4
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    prefill_chunk: int = 64

    @property
    def shapes(self) -> Shapes:
        """The static part."""
        return Shapes(max_draft_length=self.max_draft_length, prefill_chunk=self.prefill_chunk)


def make_job(
    pair: Pair,
    *,
    settings: DecodeSettings,
    controller: control.Controller | None = None,
    system: world.System | None = None,
    payload: world.Payload | None = None,
    length_exit: control.LengthExit | None = None,
    depth_exit: control.DepthExit | None = None,
    draft_sampling: control.DraftSampling | None = None,
) -> Job:
    """Put together what a decode runs.

    Args:
        pair: draft and target.
        settings: lengths and law.
        controller: sets each round's budget; `control.ratio()` without a power cap if not given.
        system: the modelled device, link and edge; `system.preset()` if not given.
        payload: how drafts travel; `system.payload.candidates(32)` if not given.
        length_exit: ends a round's drafting; `control.length_exits.priced()` if not given.
        depth_exit: ends a token's computing; the deepest exit if not given.
        draft_sampling: the draft's temperature; the target's if not given.

    Returns:
        The job; its numbers are arrays.
    """
    policy = Policy(
        controller=control.ratio() if controller is None else controller,
        length_exit=control.length_exits.priced() if length_exit is None else length_exit,
        depth_exit=control.depth_exits.fixed() if depth_exit is None else depth_exit,
        draft_sampling=control.draft_sampling.fixed() if draft_sampling is None else draft_sampling,
        payload=world.payload.candidates(32) if payload is None else payload,
    )
    return Job(
        target=pair.target,
        draft=pair.draft,
        policy=policy,
        system=world.preset() if system is None else system,
        sampling=Sampling.create(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p),
        eos_ids=jnp.asarray(pair.eos_ids, jnp.int32),
    )


def encode_prompts(
    pair: Pair, prompts: Sequence[str] | Sequence[Sequence[int]], settings: DecodeSettings, *, raw: bool = False
) -> dict[str, Array]:
    """Pad prompts into one buffer, a power of two long.

    Args:
        pair: whose tokenizer and context length count.
        prompts: texts (put into the chat template unless `raw`) or token ids.
        settings: `max_new_tokens` and `seed`.
        raw: texts are continued as they are.

    Returns:
        The arguments `tokens`, `prompt_length`, `limit`, `seed` of `prefill`.

    Raises:
        ValueError: no prompt, an empty one, or one that does not fit the model's context.
    """
    if not prompts:
        raise ValueError("there is no prompt; give at least one")
    if settings.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {settings.max_new_tokens}, must be at least 1")
    ids = [_encode(pair, prompt, raw) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    for number, row in enumerate(ids):
        if not row:
            raise ValueError(f"prompt {number} has no tokens; give it some text")
        longest = pair.target.config.max_positions - settings.max_new_tokens
        if len(row) > longest:
            raise ValueError(
                f"prompt {number} has {len(row)} tokens; with max_new_tokens {settings.max_new_tokens} the model's "
                f"{pair.target.config.max_positions} positions leave room for {longest}: shorten it"
            )
    # The last window may start at the last token and must not run over the buffer's end.
    needed = max(map(len, ids)) + settings.max_new_tokens + settings.shapes.windows[-1]
    size = max(SMALLEST_BUFFER, 1 << (needed - 1).bit_length(), settings.prefill_chunk)
    tokens = np.zeros((len(ids), -(-size // settings.prefill_chunk) * settings.prefill_chunk), np.int32)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = values
    lengths = np.asarray([len(row) for row in ids], np.int32)
    return {
        "tokens": jnp.asarray(tokens),
        "prompt_length": jnp.asarray(lengths),
        "limit": jnp.asarray(lengths + settings.max_new_tokens),
        "seed": jnp.asarray(settings.seed, jnp.uint32),
    }


def _encode(pair: Pair, text: str, raw: bool) -> list[int]:
    return pair.tokenizer.encode(text) if raw else pair.tokenizer.chat_prompt(text)
