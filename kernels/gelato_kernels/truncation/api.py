"""`top_p_logits` and `top_k_logits`: truncations that keep ties, and cost no sort."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels.checks import expect, expect_logits
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.truncation import reference, xla

TOP_P_BACKENDS = (Backend("xla", xla.top_p_logits), Backend("reference", reference.top_p_logits))
TOP_K_BACKENDS = (Backend("xla", xla.top_k_logits), Backend("reference", reference.top_k_logits))


def _per_row(op: str, name: str, x: ArrayLike, kind: str, rows: tuple[int, ...]) -> Array:
    x = expect(op, name, x, kind, None, "[] or [...]")
    if x.shape not in ((), rows):
        raise ValueError(f"{op}: {name} has shape {x.shape}, expected () or {rows}, one per row of logits")
    return jnp.broadcast_to(x, rows)


def top_p_logits(logits: ArrayLike, top_p: ArrayLike, *, implementation: str | None = None) -> Array:
    """Keep {x: p(x) >= t}, t the largest threshold whose kept mass is at least `top_p`; others become -inf.

    Ties at the threshold are all kept, so the set is that of a sort that does not cut through
    equals. Exact for the row's float32 weights exp(x - max) and their float32 sums.

    Args:
        logits: [..., V] floating; -inf is legal, at least one per row is finite.
        top_p: [] or [...], traced; 1 or more keeps all, 0 or less the largest alone.
        implementation: `xla`, `reference` or None.

    Returns:
        [..., V] float32 logits, not renormalised.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("top_p_logits", "logits", logits, None, "[..., V]")
    top_p = jnp.asarray(top_p, jnp.float32)  # an integer 1 is a level too
    top_p = _per_row("top_p_logits", "top_p", top_p, "floating", logits.shape[:-1])
    return dispatch("top_p_logits", TOP_P_BACKENDS, implementation, logits, top_p)


def top_k_logits(logits: ArrayLike, k: ArrayLike, *, implementation: str | None = None) -> Array:
    """Keep the k largest logits and whatever ties with the smallest of them; others become -inf.

    Args:
        logits: [..., V] floating; -inf is legal.
        k: [] or [...] integer, traced; 0 or less, or V or more, keeps all.
        implementation: `xla`, `reference` or None.

    Returns:
        [..., V] float32 logits.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("top_k_logits", "logits", logits, None, "[..., V]")
    k = _per_row("top_k_logits", "k", k, "integer", logits.shape[:-1]).astype(jnp.int32)
    return dispatch("top_k_logits", TOP_K_BACKENDS, implementation, logits, k)
