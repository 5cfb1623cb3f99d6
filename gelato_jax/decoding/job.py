"""What a decode is asked for: settings and choices made into a job, prompts into one buffer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax import control, keys, payloads
from gelato_jax import system as world
from gelato_jax.decoding.catch_up import CATCH_UP_WINDOW
from gelato_jax.decoding.pair import Pair
from gelato_jax.decoding.records import Job, Policy, Sampling, Shapes
from gelato_jax.errors import GelatoError
from gelato_jax.payloads.base import MOST_COUNTED

LONGEST_STREAM = MOST_COUNTED
"""Tokens that one message can ask for."""
LOCAL_STREAM = 5
"""A `stream_length` where device and edge are one machine: nothing is saved by more, and decisions come sooner."""
SMALLEST_BUFFER = 512
"""Token slots of the smallest buffer: most prompts with their answers. Attention follows the text and pays for no more;
a request pays for the memory of its caches once, and each further size is a program of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """What a user sets about a decode.

    Only `max_draft_length` and `prefill_chunk` shape the program; the rest are numbers in it.

    Attributes:
        max_draft_length: G, most tokens drafted in a round.
        stream_length: tokens that a message without drafts asks the target for, 1..63. With 1 each costs a round trip,
            as in the paper; with more the target goes on by itself, as a server does that streams: they come in
            rounds of up to G + 1 that nobody has to ask for.
        max_new_tokens: tokens generated at most, for each prompt.
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens of the target's distribution; 0 keeps all.
        top_p: keep the likeliest tokens up to this mass; 1 keeps all.
        seed: random numbers, 0..2**32 - 1: one for all prompts, which then draw apart, or one for each. A prompt with
            a seed of its own gives the same text alone and in any row of any batch.
        prefill_chunk: tokens of a prompt run at a time.
    """

    max_draft_length: int = 4
    stream_length: int = 1
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0
    prefill_chunk: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot run, before anything is loaded."""
        for name in ("max_draft_length", "stream_length", "max_new_tokens", "prefill_chunk"):
            if not _is_whole(getattr(self, name)):
                raise GelatoError(f"{name} is {getattr(self, name)!r}, must be a whole number")
        for name in ("stream_length", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise GelatoError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.stream_length > LONGEST_STREAM:
            raise GelatoError(f"stream_length is {self.stream_length}, must be at most {LONGEST_STREAM}")
        seeds: Sequence[Any] = self.seed if isinstance(self.seed, Sequence) else (self.seed,)
        for seed in seeds:
            if not _is_whole(seed) or not 0 <= seed < 2**32:
                raise GelatoError(f"seed is {seed!r}, must be a whole number from 0 to {2**32 - 1}")
        if isinstance(self.seed, Sequence):
            object.__setattr__(self, "seed", tuple(self.seed))
        self.sampling  # noqa: B018  (its numbers are checked)
        self.shapes  # noqa: B018

    @property
    def sampling(self) -> Sampling:
        """How logits become a distribution."""
        return Sampling.create(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    @property
    def shapes(self) -> Shapes:
        """The static part."""
        return Shapes(max_draft_length=self.max_draft_length, prefill_chunk=self.prefill_chunk)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def make_job(
    pair: Pair,
    *,
    settings: DecodeSettings,
    controller: control.Controller | None = None,
    system: world.System | None = None,
    payload: payloads.Payload | None = None,
    length_exit: control.LengthExit | None = None,
    depth_exit: control.DepthExit | None = None,
    draft_sampling: control.DraftSampling | None = None,
) -> Job:
    """Put together what a decode runs.

    Args:
        pair: draft and target.
        settings: lengths and distribution.
        controller: sets each round's budget; `control.ratio()` without a power cap if not given.
        system: the modelled device, link and edge; `system.preset()` if not given.
        payload: how drafts travel; `payloads.candidates(32)` if not given.
        length_exit: ends a round's drafting; `control.length_exits.priced()` if not given.
        depth_exit: ends a token's computing; the deepest exit if not given.
        draft_sampling: the draft's temperature; the target's if not given.

    Returns:
        The job; its numbers are arrays.

    Raises:
        GelatoError: the depth exit asks for an exit that the draft does not have, or the controller's budget is
            under what the device spends without drafting.
    """
    policy = Policy(
        controller=control.ratio() if controller is None else controller,
        length_exit=control.length_exits.priced() if length_exit is None else length_exit,
        depth_exit=control.depth_exits.fixed() if depth_exit is None else depth_exit,
        draft_sampling=control.draft_sampling.fixed() if draft_sampling is None else draft_sampling,
        payload=payloads.candidates(32) if payload is None else payload,
        stream_length=jnp.asarray(settings.stream_length, jnp.int32),
    )
    system = world.preset() if system is None else system
    policy.depth_exit.check(len(pair.draft.depths))
    rounds = {
        "vocab_size": pair.target.config.valid_outputs,
        "stream_length": settings.stream_length,
    }
    control.check_power_budget(policy.controller.power_budget_w, system, policy.payload, **rounds)
    control.check_energy_budget(policy.controller, system, policy.payload, **rounds)
    return Job(
        target=pair.target,
        draft=pair.draft,
        policy=policy,
        system=system,
        sampling=settings.sampling,
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
        The arguments `tokens`, `prompt_length`, `limit`, `seeds` of `prefill`.

    Raises:
        GelatoError: no prompt, an empty one, ids that the model does not have, one that does not fit its context, or
            another number of seeds than of prompts.
    """
    if isinstance(prompts, str):
        raise GelatoError("prompts is one text; give a list of them: [text]")
    if len(prompts) == 0:
        raise GelatoError("there is no prompt; give at least one")
    seeds = _seeds(settings.seed, len(prompts))
    ids = [_ids(pair, number, prompt, raw) for number, prompt in enumerate(prompts)]
    positions = pair.target.config.max_positions
    longest = positions - settings.max_new_tokens
    if longest < 1:
        raise GelatoError(
            f"max_new_tokens is {settings.max_new_tokens}, the model has {positions} positions for prompt and answer: "
            f"give at most {positions - max(map(len, ids))}"
        )
    for number, row in enumerate(ids):
        if len(row) > longest:
            raise GelatoError(
                f"prompt {number} has {len(row)} tokens; with max_new_tokens {settings.max_new_tokens} the model's "
                f"{positions} positions leave room for {longest}: shorten it"
            )
    tokens = np.zeros((len(ids), buffer_slots(max(map(len, ids)) + settings.max_new_tokens, settings.shapes)), np.int32)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = values
    lengths = np.asarray([len(row) for row in ids], np.int32)
    return {
        "tokens": jnp.asarray(tokens),
        "prompt_length": jnp.asarray(lengths),
        "limit": jnp.asarray(lengths + settings.max_new_tokens),
        "seeds": jnp.asarray(seeds),
    }


def buffer_slots(longest: int, shapes: Shapes) -> int:
    """Token slots of a buffer for texts of up to `longest` tokens: a power of two, in whole chunks of a prompt."""
    # The last window may start at the last token, and must not run over the buffer's end.
    needed = longest + max(shapes.windows[-1], CATCH_UP_WINDOW)
    size = max(SMALLEST_BUFFER, 1 << (needed - 1).bit_length(), shapes.prefill_chunk)
    return -(-size // shapes.prefill_chunk) * shapes.prefill_chunk


def seeds_of(seed: int | Sequence[int], rows: int) -> tuple[int, ...]:
    """A seed for each of `rows` prompts, from one for all: their texts then do not depend on how they are batched."""
    if isinstance(seed, Sequence):
        return tuple(seed)
    return tuple(np.random.SeedSequence(seed).generate_state(rows).tolist())


def _seeds(seed: int | Sequence[int], rows: int) -> np.ndarray:
    """`[B, 2]` as `keys.row_keys` takes them: a prompt with a seed of its own draws the same in any row."""
    if not isinstance(seed, Sequence):
        return np.asarray(keys.spread(jnp.asarray(seed, jnp.uint32), rows))
    if len(seed) != rows:
        raise GelatoError(f"there are {len(seed)} seeds of {rows} prompts; give one, or one for each")
    return np.stack([np.asarray(seed, np.uint32), np.zeros(rows, np.uint32)], axis=1)


def _ids(pair: Pair, number: int, prompt: str | Sequence[int], raw: bool) -> list[int]:
    """Token ids of a prompt that can be read."""
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise GelatoError(
                f"prompt {number} is no text: character {error.start} is half of a surrogate pair; mend its encoding"
            ) from None
        ids = pair.tokenizer.encode(prompt) if raw else pair.tokenizer.chat_prompt(prompt)
    else:
        ids = list(prompt)
    if not ids:
        raise GelatoError(f"prompt {number} has no tokens; give it some text")
    size = pair.target.config.valid_outputs
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int | np.integer) or not 0 <= token < size:
            raise GelatoError(f"prompt {number} has the id {token!r}; the model's ids are 0 to {size - 1}")
    return [int(token) for token in ids]
