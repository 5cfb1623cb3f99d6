"""Probes of early exits: how uncertain the head would be, told from the exit's state by a dot product.

Fitted when training is over, in closed form: the answer is always the same, and a probe learns
nothing from layers that still move.
"""

import dataclasses
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gelato_jax.models import Model
from gelato_jax.training.batches import Batch, Batches
from gelato_jax.training.distill import at_learned, exit_states

_RIDGE = 1e-4  # share of the states' mean square that is added to it (assumed): states have near-empty directions
_ROWS_AT_ONCE = 64  # of logits
_TOKENS = 100_000  # seen at most; a probe has some hundred numbers to learn


def fit_probes(model: Model, batches: Batches, *, tokens: int = _TOKENS) -> Model:
    """Fit the probe of every early exit by ridge least squares of the exit's entropy on its normed state.

    Args:
        model: a draft; without probes it is returned as it is.
        batches: text to fit to, seen once at most.
        tokens: enough of it, positions with a weight.

    Returns:
        The draft with probes `[w . normed + b]` of its early exits' entropy, nats.
    """
    if not model.config.exit_probes:
        return model
    early, size = len(model.config.exits) - 1, model.config.hidden_size + 1
    products, targets, seen = np.zeros((early, size, size)), np.zeros((early, size)), 0.0
    for batch in islice(batches.shuffled(seed=0), batches.batches_per_epoch(seed=0)):
        some_products, some_targets = jax.device_get(_normal_equations(model, batch))
        products += some_products
        targets += some_targets
        seen += float(np.count_nonzero(batch.weight))
        if seen >= tokens:
            break
    params = dict(model.params)
    for index in range(early):
        ridge = _RIDGE * np.trace(products[index]) / size * np.eye(size)
        ridge[-1, -1] = 0.0  # the offset is not held back
        solution = np.linalg.solve(products[index] + ridge, targets[index])
        params[f"exit_probes.{index}.weight"] = jnp.asarray(solution[:-1], jnp.float32)
        params[f"exit_probes.{index}.bias"] = jnp.asarray(solution[-1], jnp.float32)
    return dataclasses.replace(model, params=params)


@jax.jit
def _normal_equations(model: Model, batch: Batch) -> tuple[Array, Array]:
    """Weighted sums over a batch: `[E, D + 1, D + 1]` of state times state, `[E, D + 1]` of state times entropy."""
    decoder, deepest = model.bind(), len(model.config.exits) - 1
    products, targets = [], []
    weight = batch.weight.reshape(-1, 1)
    for state in exit_states(decoder, batch.tokens, jnp.full(batch.tokens.shape, deepest))[:-1]:
        normed = at_learned(state, batch)
        normed = normed.reshape(-1, normed.shape[-1])
        entropy = lax.map(lambda x: decoder.head_stats(x).entropy, normed, batch_size=_ROWS_AT_ONCE)
        features = jnp.concatenate([normed, jnp.ones_like(normed[:, :1])], axis=1)
        products.append(features.T @ (features * weight))
        targets.append((features * weight).T @ entropy)
    return jnp.stack(products), jnp.stack(targets)
