"""`warp_logits`, `top_p_logits` and `top_k_logits`: truncations that keep ties, and cost no sort."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from gelato_kernels import native as compiled
from gelato_kernels.checks import expect, expect_logits
from gelato_kernels.dispatch import Backend, dispatch
from gelato_kernels.truncation import native, reference, xla


def _backends(op: str) -> tuple[Backend, ...]:
    return (
        Backend("native", getattr(native, op), platforms=("cpu",), lacks=compiled.reason),
        Backend("xla", getattr(xla, op)),
        Backend("reference", getattr(reference, op)),
    )


TOP_P_BACKENDS, TOP_K_BACKENDS, WARP_BACKENDS = map(_backends, ("top_p_logits", "top_k_logits", "warp_logits"))


def _per_row(op: str, name: str, x: ArrayLike, kind: str, rows: tuple[int, ...]) -> Array:
    x = expect(op, name, x, kind, None, "[] or [...]")
    if x.shape not in ((), rows):
        raise ValueError(f"{op}: {name} has shape {x.shape}, expected () or {rows}, one per row of logits")
    return jnp.broadcast_to(x, rows)


def top_p_logits(logits: ArrayLike, top_p: ArrayLike, *, implementation: str | None = None) -> Array:
    """Keep {x: p(x) >= t}, t the largest threshold whose kept mass is at least `top_p`; others become -inf.

    Ties at the threshold are all kept, so the set is that of a sort that does not cut through
    equals. Exact for the row's float32 weights exp(x - max) and their float32 sums (`native`: float64 sums).

    Args:
        logits: [..., V] floating; -inf is legal, at least one per row is finite.
        top_p: [] or [...], traced; 1 or more keeps all, 0 or less the largest alone.
        implementation: `native` (what a CPU gets where there is a C++ compiler), `xla`, `reference` or None.

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
        implementation: as in `top_p_logits`.

    Returns:
        [..., V] float32 logits.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    logits = expect_logits("top_k_logits", "logits", logits, None, "[..., V]")
    k = _per_row("top_k_logits", "k", k, "integer", logits.shape[:-1]).astype(jnp.int32)
    return dispatch("top_k_logits", TOP_K_BACKENDS, implementation, logits, k)


def warp_logits(
    logits: ArrayLike,
    temperature: ArrayLike,
    *,
    top_k: ArrayLike = 0,
    top_p: ArrayLike = 1.0,
    implementation: str | None = None,
) -> Array:
    """Logits over a temperature, then `top_k_logits`, then `top_p_logits`: the distribution that is sampled from.

    Args:
        logits: [..., V] floating; -inf is legal, at least one per row is finite.
        temperature: [] or [...], traced; where it is 0 or less the row becomes the point mass on its likeliest token,
            the lowest id among ties: 0 there, -inf elsewhere.
        top_k: [] or [...] integer, traced; as in `top_k_logits`.
        top_p: [] or [...], traced; as in `top_p_logits`.
        implementation: as in `top_p_logits`.

    Returns:
        [..., V] float32 logits, not renormalised.

    Raises:
        ValueError: wrong shape or dtype, or an unknown implementation.
        NotImplementedError: if differentiated.
    """
    op = "warp_logits"
    logits = expect_logits(op, "logits", logits, None, "[..., V]")
    rows = logits.shape[:-1]
    temperature = _per_row(op, "temperature", jnp.asarray(temperature, jnp.float32), "floating", rows)
    top_k = _per_row(op, "top_k", top_k, "integer", rows).astype(jnp.int32)
    top_p = _per_row(op, "top_p", jnp.asarray(top_p, jnp.float32), "floating", rows)
    return dispatch(op, WARP_BACKENDS, implementation, logits, temperature, top_k, top_p)
