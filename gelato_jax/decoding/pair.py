"""A draft and a target that can decode together, and the drafts that need no training."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax.numpy as jnp
from jax import Array

from gelato_jax.config import ModelConfig
from gelato_jax.control import default_calibration
from gelato_jax.decoding.records import DraftModel, Lookup
from gelato_jax.errors import GelatoError
from gelato_jax.models import Model, exit_work
from gelato_jax.types import Calibrations, RepeatOddsSet


class Tokenizer(Protocol):
    """What decoding asks of a tokenizer."""

    @property
    def fingerprint(self) -> str:
        """Of the vocabulary in the order of its ids: with equal ones ids mean the same text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text to be continued; a beginning-of-sequence token where the model has one."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        ...

    def chat_prompt(self, text: str) -> list[int]:
        """Token ids of the model's chat template around one user turn."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A target, its draft, and the tokenizer that both speak.

    Attributes:
        name: what the user called it.
        target: the model whose distribution the output has.
        draft: the model that proposes.
        tokenizer: text to ids and back.
        eos_ids: ids that end an answer.
    """

    name: str
    target: Model
    draft: DraftModel | Lookup
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]


def make_draft(
    model: Model,
    calibration: Calibrations | None = None,
    vocabulary: Array | None = None,
    repeats: RepeatOddsSet | None = None,
) -> DraftModel:
    """A draft from a decoder.

    Args:
        model: the decoder.
        calibration: what its entropy says; the reported curve, greedy and sampled, if not given.
        vocabulary: `[U]` int32 ids of its head's rows, ascending; all of the target's if not given.
        repeats: odds of repeated tokens; those of the head if not given.
    """
    reported = default_calibration(num_exits=len(model.config.exits))
    return DraftModel(
        model=model,
        vocabulary=vocabulary,
        calibration=Calibrations(greedy=reported, sampled=reported) if calibration is None else calibration,
        work=jnp.asarray(exit_work(model.config), jnp.float32),
        repeats=repeats,
    )


def first_layers(target: Model, layers: int, exits: Sequence[int] = ()) -> DraftModel:
    """An untrained draft: the target's first layers, copied where they are in a stack, and its own head, shared.

    It agrees with the target on few tokens; it serves until a draft is trained.

    Args:
        target: the model to draft for.
        layers: layers to keep, 1..L.
        exits: earlier exits, ascending, below `layers`; each reads through the target's final norm.

    Raises:
        GelatoError: more layers than the target has, or exits that do not ascend to `layers`.
    """
    if not 1 <= layers <= target.config.num_layers:
        raise GelatoError(f"draft layers:{layers} must lie in 1..{target.config.num_layers}, the target's layers")
    config: ModelConfig = dataclasses.replace(target.config, num_layers=layers, exits=(*exits, layers))
    if config.is_stacked:
        kept = {path: array[:layers] if path.startswith("layers.") else array for path, array in target.params.items()}
    else:
        kept = {
            path: array
            for path, array in target.params.items()
            if not path.startswith("layers.") or int(path.split(".")[1]) < layers
        }
    norms = {f"exit_norms.{index}.scale": target.params["norm.scale"] for index in range(len(exits))}
    return make_draft(Model(config=config, params={**kept, **norms}))
