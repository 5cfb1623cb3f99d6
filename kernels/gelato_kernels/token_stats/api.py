"""`entropy`: what a draft step wants to know about its logits before and after it draws."""

from typing import NamedTuple

from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect_draw, expect_logits
from gelato_kernels.dispatch import dispatch
from gelato_kernels.sweeps.backends import sweep_backends
from gelato_kernels.token_stats import reference, two_level

BACKENDS = sweep_backends(two_level.token_stats, reference.token_stats)


class TokenStats(NamedTuple):
    """Statistics of softmax(logits) at temperature 1, and a token drawn at another."""

    entropy: Array  # [...] nats
    logsumexp: Array  # [...] nats: log p(x) = logits[x] - logsumexp
    max_probability: Array  # [...]
    argmax: Array  # [...] int32, the lowest id among ties; some id of the vocabulary where a logit is nan
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
        implementation: a backend's name or None, see the package.

    Returns:
        TokenStats in float32 and int32.

    Raises:
        ValueError: wrong shape or dtype, a temperature without uniforms, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("entropy", "logits", logits, None, "[..., V]")
    uniforms, temperature = expect_draw("entropy", uniforms, temperature, logits.shape[:-1])
    return TokenStats(*dispatch("entropy", BACKENDS, implementation, logits, uniforms, temperature))
