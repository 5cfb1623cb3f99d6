"""Pairs for tests and studies: tiny random models, and a noisy copy of a target as its draft.

Not stand-ins for a product: a tiny model's text means nothing, and a noisy copy costs as much as
its target. They give loops and controllers every acceptance rate without a trained draft.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gelato_jax.config import ModelConfig
from gelato_jax.decoding import DraftModel, Pair, make_draft
from gelato_jax.models import Model, random_model
from gelato_jax.types import Observation, RoundCost


def observation(
    *,
    drafted: ArrayLike,
    accepted: ArrayLike,
    tokens: ArrayLike,
    time_s: ArrayLike,
    energy_j: ArrayLike,
    predicted: ArrayLike = 0.0,
    passes: ArrayLike = 1,
    active: ArrayLike = True,
) -> Observation:
    """What a controller would be told of a round, for tests of one: numbers or arrays of any shape."""
    return Observation(
        active=jnp.asarray(active),
        drafted=jnp.asarray(drafted, jnp.int32),
        accepted=jnp.asarray(accepted, jnp.int32),
        rejected=jnp.asarray(accepted) < jnp.asarray(drafted),
        predicted=jnp.asarray(predicted, jnp.float32),
        tokens=jnp.asarray(tokens, jnp.int32),
        passes=jnp.asarray(passes, jnp.int32),
        cost=RoundCost.total(time_s, energy_j),
    )


class NumberTokenizer:
    """Ids written as numbers: `1 2 3`."""

    fingerprint = "numbers"

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """The ids, written out."""
        return " ".join(map(str, ids))

    def chat_prompt(self, text: str) -> list[int]:
        """As `encode`: there is no chat."""
        return self.encode(text)


def tiny_config(vocab_size: int = 61, layers: int = 3, **changes) -> ModelConfig:
    """A decoder that compiles in seconds and runs in microseconds."""
    config = ModelConfig(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=16,
        mlp_size=24,
        num_layers=layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        rope_theta=1e4,
        norm_eps=1e-5,
        max_positions=4096,
        tied_head=False,
    )
    return dataclasses.replace(config, **changes)


def tiny_model(config: ModelConfig | None = None, seed: int = 0, sharpness: float = 3.0) -> Model:
    """A random decoder; `sharpness` scales its logits, so that entropies vary from token to token."""
    model = random_model(tiny_config() if config is None else config, seed)
    head = "embed.embedding" if model.config.tied_head else "head.kernel"
    return Model(config=model.config, params={**model.params, head: model.params[head] * sharpness})


def noisy_copy(target: Model, noise: float, *, exits: Sequence[int] = (), seed: int = 1) -> DraftModel:
    """A draft that agrees with its target more or less: the target's weights, disturbed.

    Args:
        target: what to copy.
        noise: the dial, >= 0: standard deviation of the disturbance as a share of each weight array's
            own; 0 agrees always.
        exits: earlier exits, ascending, below the target's depth; each reads through the final norm.
        seed: of the disturbance.
    """
    keys = jax.random.split(jax.random.key(seed), len(target.params))
    params = {
        path: array + noise * jnp.std(array) * jax.random.normal(key, array.shape, array.dtype)
        for key, (path, array) in zip(keys, sorted(target.params.items()), strict=True)
    }
    norms = {f"exit_norms.{index}.scale": params["norm.scale"] for index in range(len(exits))}
    config = dataclasses.replace(target.config, exits=(*exits, target.config.num_layers))
    return make_draft(Model(config=config, params={**params, **norms}))


def tiny_pair(noise: float = 0.05, *, vocab_size: int = 61, exits: Sequence[int] = (1, 2), seed: int = 0) -> Pair:
    """A tiny target and a noisy copy of it as its draft; the last id ends a row."""
    target = tiny_model(tiny_config(vocab_size), seed)
    draft = noisy_copy(target, noise, exits=exits)
    return Pair(name="tiny", target=target, draft=draft, tokenizer=NumberTokenizer(), eos_ids=(vocab_size - 1,))
