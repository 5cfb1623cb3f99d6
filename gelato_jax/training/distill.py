"""Distillation: a draft learns its target's distributions, at every exit, as exits are used.

The target's likeliest tokens stand for its distribution, what is left is one more outcome. An early
exit learns on every token; some tokens leave there, and the deeper layers then see keys and values
projected from the exit's state, as they will while drafting.
"""

import dataclasses
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import DTypeLike

from gelato_jax.models import Decoder, Model
from gelato_jax.training.batches import Batch

Params = dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a draft is trained. Everything here is part of the compiled step.

    Attributes:
        epochs: passes over the corpus; may be a fraction.
        tokens_per_batch: padding included.
        learning_rate: at its highest.
        warmup: share of the steps that it rises; then it falls as a cosine to a hundredth.
        weight_decay: AdamW's, on matrices.
        clip: largest norm of a gradient.
        overlap_weight: share of the loss that is 1 - acceptance (total variation); the rest is the KL divergence.
        early_weight: weight of every early exit's loss; the deepest exit's is 1.
        leaving: share of the tokens that leave at an early exit while training.
        user_weight: weight of a user turn's tokens; an answer's is 1.
        seed: of the order and of who leaves early.
    """

    epochs: float = 3.0
    tokens_per_batch: int = 4096
    learning_rate: float = 1.5e-3
    warmup: float = 0.03
    weight_decay: float = 0.01
    clip: float = 1.0
    overlap_weight: float = 0.0
    early_weight: float = 0.3
    leaving: float = 0.1
    user_weight: float = 0.2
    seed: int = 0


class TrainState(NamedTuple):
    """What a step changes."""

    trained: Params  # float32
    optimizer: Any
    step: Array  # [] int32


class ExitScores(NamedTuple):
    """How an exit did on each learned position, `[R, P]` each."""

    divergence: Array  # KL(target || draft), nats
    acceptance: Array  # 1 - total variation, of the outcomes told apart
    agreement: Array  # bool: same likeliest token


def split_trained(params: Params) -> tuple[Params, Params]:
    """Weights that are trained, and those that are not: the input embedding stays the target's."""
    trained = {path: array for path, array in params.items() if not path.startswith("embed.")}
    return trained, {path: array for path, array in params.items() if path.startswith("embed.")}


@lru_cache(maxsize=8)  # a step is compiled for the very object
def make_optimizer(settings: TrainSettings, steps: int) -> optax.GradientTransformation:
    """AdamW after clipping, warm-up and cosine over `steps` steps."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        settings.learning_rate,
        max(1, round(settings.warmup * steps)),
        max(2, steps),
        settings.learning_rate / 100,
    )
    matrices = lambda params: jax.tree.map(lambda array: array.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(settings.clip),
        optax.adamw(schedule, b2=0.98, weight_decay=settings.weight_decay, mask=matrices),
    )


def score(logits: Array, batch: Batch) -> ExitScores:
    """Compare an exit's distributions with the target's.

    Args:
        logits: `[R, P, U]` float32, at the learned positions.
        batch: the target's likeliest tokens.
    """
    size = logits.shape[-1]
    known = batch.top_index < size
    index = jnp.minimum(batch.top_index, size - 1)
    log_total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    log_q = jnp.take_along_axis(logits, index, axis=-1) - log_total
    p_all = jnp.exp(batch.top_log_prob)
    p, q = jnp.where(known, p_all, 0.0), jnp.where(known, jnp.exp(log_q), 0.0)
    p_rest = jnp.maximum(1.0 - p_all.sum(axis=-1), 1e-6)
    q_rest = jnp.maximum(1.0 - q.sum(axis=-1), 1e-6)
    divergence = jnp.where(known, p * (batch.top_log_prob - log_q), 0.0).sum(axis=-1)
    divergence = divergence + p_rest * (jnp.log(p_rest) - jnp.log(q_rest))
    reached = jnp.maximum(p.sum(axis=-1) + p_rest, 1e-3)  # mass that the head can reach at all
    acceptance = jnp.minimum(p, q).sum(axis=-1) + jnp.minimum(p_rest, q_rest)
    best = jax.lax.stop_gradient(logits.max(axis=-1))
    agreement = known[..., 0] & (jnp.take_along_axis(logits, index[..., :1], axis=-1)[..., 0] >= best)
    return ExitScores(divergence / reached, acceptance, agreement)


def at_learned(values: Array, batch: Batch) -> Array:
    """`values [R, T, ...]` at the learned positions, `[R, P, ...]`."""
    index = batch.learned.reshape(*batch.learned.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1, mode="promise_in_bounds")


def exit_states(decoder: Decoder, tokens: Array, leaves: Array) -> list[Array]:
    """Normed states at every exit, `[R, T, D]` each, of whole rows.

    Args:
        decoder: the draft.
        tokens: `[R, T]`.
        leaves: `[R, T]` int32 the exit at which a token leaves; deeper exits then read its frozen state.
    """
    exits, rows = decoder.config.exits, tokens.shape[0]
    lengths = jnp.zeros((rows,), jnp.int32)
    angles = decoder.angles(lengths, tokens.shape[1])
    x, states = decoder.embed_tokens(tokens), []
    for index, (start, stop) in enumerate(zip((0, *exits), exits, strict=False)):
        moving = None if index == 0 else leaves >= index
        x, _ = decoder.run(x, angles, None, lengths, start, stop, moving)
        states.append(decoder.exit_norm(index)(x))
    return states


def loss(
    trained: Params, fixed: Params, batch: Batch, key: Array, model: Model, settings: TrainSettings, dtype: DTypeLike
) -> tuple[Array, dict[str, Array]]:
    """Weighted loss of a batch over all exits, and what to report."""
    decoder = _bind(model, trained, fixed, dtype)
    deepest = len(decoder.config.exits) - 1
    leaves = _draw_leaves(key, batch.tokens.shape, deepest, settings.leaving)
    total, report = jnp.zeros(()), {}
    reached = at_learned(leaves, batch)
    for index, state in enumerate(exit_states(decoder, batch.tokens, leaves)):
        scores = score(decoder.head_logits(at_learned(state, batch)), batch)
        weight = batch.weight * (reached >= index)
        mixed = (1 - settings.overlap_weight) * scores.divergence
        mixed = mixed + settings.overlap_weight * (1.0 - scores.acceptance)
        total = total + (1.0 if index == deepest else settings.early_weight) * _mean(mixed, weight)
        report[f"acceptance_{index}"] = _mean(scores.acceptance, weight)
        report[f"agreement_{index}"] = _mean(scores.agreement, weight * batch.greedy)
    return total, {"loss": total, **report}


@partial(jax.jit, static_argnames=("dtype",))
def batch_sums(trained: Params, fixed: Params, batch: Batch, model: Model, *, dtype: DTypeLike) -> dict[str, Array]:
    """Weighted sums over a batch, every token at the deepest exit: to be added up, then divided by the weights."""
    decoder = _bind(model, trained, fixed, dtype)
    deepest = len(decoder.config.exits) - 1
    greedy = batch.weight * batch.greedy
    sums = {"weight": batch.weight.sum(), "greedy_weight": greedy.sum()}
    for index, state in enumerate(exit_states(decoder, batch.tokens, jnp.full(batch.tokens.shape, deepest))):
        scores = score(decoder.head_logits(at_learned(state, batch)), batch)
        sums[f"divergence_{index}"] = (scores.divergence * batch.weight).sum()
        sums[f"acceptance_{index}"] = (scores.acceptance * batch.weight).sum()
        sums[f"agreement_{index}"] = (scores.agreement * greedy).sum()
    return sums


def _draw_leaves(key: Array, shape: tuple[int, ...], deepest: int, leaving: float) -> Array:
    """The exit at which each token leaves: the deepest, or with chance `leaving` one of the others."""
    if deepest == 0:
        return jnp.zeros(shape, jnp.int32)
    leave_key, exit_key = jax.random.split(key)
    early = jax.random.randint(exit_key, shape, 0, deepest)
    return jnp.where(jax.random.bernoulli(leave_key, leaving, shape), early, deepest)


def _mean(values: Array, weight: Array) -> Array:
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1e-6)


def _bind(model: Model, trained: Params, fixed: Params, dtype: DTypeLike) -> Decoder:
    """The decoder over weights being trained: matrices in `dtype`, the rest as it is."""
    matrices = {path: array.astype(dtype) if array.ndim > 1 else array for path, array in trained.items()}
    return Model(config=model.config, params={**matrices, **fixed}).bind()


@partial(jax.jit, static_argnames=("settings", "optimizer", "dtype"), donate_argnames="state")
def train_step(
    state: TrainState,
    fixed: Params,
    batch: Batch,
    model: Model,
    *,
    settings: TrainSettings,
    optimizer: optax.GradientTransformation,
    dtype: DTypeLike,
) -> tuple[TrainState, dict[str, Array]]:
    """One step. Data parallel when `batch` is sharded over its rows."""
    key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
    gradient, report = jax.grad(loss, has_aux=True)(state.trained, fixed, batch, key, model, settings, dtype)
    updates, new = optimizer.update(gradient, state.optimizer, state.trained)
    trained: Any = optax.apply_updates(state.trained, updates)
    report["gradient_norm"] = optax.tree.norm(gradient)
    return TrainState(trained, new, state.step + 1), report
