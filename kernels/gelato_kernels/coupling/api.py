"""`gumbel_argmax`: a draw whose noise is an input, so that draft and target can share it."""

from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect_logits
from gelato_kernels.coupling import reference, xla
from gelato_kernels.dispatch import Backend, dispatch

BACKENDS = (Backend("xla", xla.gumbel_argmax), Backend("reference", reference.gumbel_argmax))


def gumbel_argmax(logits: ArrayLike, noise: ArrayLike, *, implementation: str | None = None) -> Array:
    """argmax(logits + noise): with Gumbel noise a draw from softmax(logits).

    Draft and target that add the same noise at the same absolute position agree often, and the
    text is the target's own draw under that noise whatever the draft proposed (`match`).

    Args:
        logits: [..., V] floating; -inf is legal and never chosen, at least one per row is finite.
        noise: [..., V] finite floating, from `gumbel_noise`; zeros give the argmax.
        implementation: `xla`, `reference` or None.

    Returns:
        [...] int32, the lowest id among ties.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("gumbel_argmax", "logits", logits, None, "[..., V]")
    noise = expect_logits("gumbel_argmax", "noise", noise, logits.shape, "[..., V] of logits")
    return dispatch("gumbel_argmax", BACKENDS, implementation, logits, noise)
