"""`entropy`: what a draft step wants to know about its logits before and after it draws."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect, expect_logits
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.token_stats import reference, xla

BACKENDS = (Backend("xla", xla.token_stats), Backend("reference", reference.token_stats))


class TokenStats(NamedTuple):
    """Statistics of softmax(logits) at temperature 1, and a token drawn at another."""

    entropy: Array  # [...] nats
    logsumexp: Array  # [...] nats: log p(x) = logits[x] - logsumexp
    max_probability: Array  # [...]
    argmax: Array  # [...] int32, the lowest id among ties
    token: Array | None  # [...] int32, None where no uniforms were given


def entropy(
    logits: ArrayLike,
    *,
    uniforms: ArrayLike | None = None,
    temperature: ArrayLike | None = None,
    implementation: str | None = None,
) -> TokenStats:
    """Entropy H = -sum p log p of the unprocessed softmax p, with log-sum-exp, maximum and argmax.

    With uniforms, also a token drawn from softmax(logits / temperature) by inverse CDF: the first
    uniform picks a block of the vocabulary, the second a token inside it. The statistics do not
    depend on the temperature.

    Args:
        logits: [..., V] floating; -inf is legal, at least one per row is finite.
        uniforms: [..., 2] from `gelato_kernels.uniforms`, or None for no draw.
        temperature: [] or [...], traced; None is 1. Where it is 0 or less the token is the argmax.
        implementation: `xla`, `reference` or None.

    Returns:
        TokenStats in float32 and int32.

    Raises:
        ValueError: wrong shape or dtype, a temperature without uniforms, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("entropy", "logits", logits, None, "[..., V]")
    rows = logits.shape[:-1]
    if uniforms is not None:
        uniforms = expect("entropy", "uniforms", uniforms, "floating", (*rows, 2), "[..., 2]")
    if temperature is not None:
        if uniforms is None:
            raise ValueError("entropy: temperature is given but uniforms is None; without uniforms no token is drawn")
        temperature = jnp.asarray(temperature, jnp.float32)  # an integer 1 is a temperature too
        temperature = expect("entropy", "temperature", temperature, "floating", None, "[] or [...]")
        if temperature.shape not in ((), rows):
            raise ValueError(f"entropy: temperature has shape {temperature.shape}, expected () or {rows}")
        temperature = jnp.broadcast_to(temperature, rows)
    return TokenStats(*dispatch("entropy", BACKENDS, implementation, logits, uniforms, temperature))
