"""Two-level form of `entropy`: one sweep of the row, then a draw that looks at one block again."""

from functools import partial

import jax.numpy as jnp
from jax import Array

from gelato_kernels.blocks import draw, read_block
from gelato_kernels.sweeps.records import Statistics, Sweeps


def token_stats(
    logits: Array, uniforms: Array | None, temperature: Array | None, *, sweeps: Sweeps
) -> tuple[Array | None, ...]:
    """Fields of TokenStats for logits [..., V]."""
    warm = None if temperature is None else jnp.where(temperature > 0, temperature, 1.0)
    seen = sweeps.statistics(logits, warm)
    stats = fields(seen, logits.shape[-1])
    if uniforms is None:
        return (*stats, None)
    token = draw(partial(read_block, logits), seen.maximum, seen.block_sums, uniforms, warm)
    return (*stats, token if temperature is None else jnp.where(temperature > 0, token, stats[-1]))


def fields(seen: Statistics, vocab: int) -> tuple[Array, Array, Array, Array]:
    """Entropy, log-sum-exp, maximum probability and argmax of a row.

    With d = x - max, S = sum e^d and T = sum d e^d: logsumexp = max + log S, H = log S - T / S. A row
    with a nan, whose maximum no sweep finds again, has some id of the vocabulary of V = `vocab`.
    """
    log_total = jnp.log(seen.total)
    argmax = jnp.clip(seen.argmax, 0, vocab - 1)
    return log_total - seen.weighted / seen.total, seen.maximum + log_total, 1.0 / seen.total, argmax
