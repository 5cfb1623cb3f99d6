"""`sample`: a token from softmax(logits), for logits that are already scaled and truncated."""

from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect, expect_logits
from gelato_kernels.dispatch import dispatch
from gelato_kernels.sampling import reference, two_level
from gelato_kernels.sweeps.backends import sweep_backends

BACKENDS = sweep_backends(two_level.sample, reference.sample)


def sample(logits: ArrayLike, uniforms: ArrayLike, *, implementation: str | None = None) -> Array:
    """Draw a token from softmax(logits) by inverse CDF.

    The first uniform picks a block of the vocabulary, the second a token inside it: one 23-bit
    uniform for both would leave a coarse draw inside the block. A token of probability zero (logit
    -inf) is never returned.

    Args:
        logits: [..., V] floating; -inf is legal, at least one per row is finite.
        uniforms: [..., 2] from `gelato_kernels.uniforms`.
        implementation: a backend's name or None, see the package.

    Returns:
        [...] int32 token ids.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("sample", "logits", logits, None, "[..., V]")
    uniforms = expect("sample", "uniforms", uniforms, "floating", (*logits.shape[:-1], 2), "[..., 2]")
    return dispatch("sample", BACKENDS, implementation, logits, uniforms)
