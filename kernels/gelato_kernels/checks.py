"""Trace-time checks of what callers pass in, and the refusal of gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

_KINDS = {"floating": jnp.floating, "integer": jnp.integer, "bool": jnp.bool_}


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _identity(op: str, x: Array) -> Array:
    return x


@_identity.defjvp
def _refuse_gradient(op: str, primals: Any, tangents: Any) -> Any:
    raise NotImplementedError(
        f"gelato_kernels offers no gradient of {op}; wrap its inputs in jax.lax.stop_gradient to hold them constant"
    )


_NARROW = (jnp.bfloat16, jnp.float16)


def expect(op: str, name: str, x: ArrayLike, kind: str, shape: tuple[int | None, ...] | None, letters: str) -> Array:
    """Check one argument's dtype and shape.

    Args:
        op: public name of the op, for the message.
        name: the argument's name.
        x: the argument.
        kind: `floating`, `integer` or `bool`.
        shape: expected sizes, None where any size will do; or None for any shape.
        letters: the documented shape, for the message.

    Returns:
        The argument as an array; floating ones refuse gradients and are float32, bfloat16 or float16.

    Raises:
        ValueError: another dtype kind or another shape.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, _KINDS[kind]):
        raise ValueError(f"{op}: {name} has dtype {x.dtype}, expected {kind}")
    if shape is not None and (
        x.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, x.shape, strict=True))
    ):
        sizes = ["any" if n is None else str(n) for n in shape]
        wanted = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
        raise ValueError(f"{op}: {name} has shape {x.shape}, expected {wanted} = {letters}")
    if kind != "floating":
        return x
    held: Array = _identity(op, x)
    return held if held.dtype in _NARROW else held.astype(jnp.float32)


def expect_logits(op: str, name: str, x: ArrayLike, shape: tuple[int | None, ...] | None, letters: str) -> Array:
    """`expect` for floating logits with at least one token along the last axis.

    Raises:
        ValueError: as `expect`, or no vocabulary axis, or an empty one.
    """
    x = expect(op, name, x, "floating", shape, letters)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{op}: {name} has shape {x.shape}, expected at least one token = {letters}")
    return x


def expect_draw(
    op: str, uniforms: ArrayLike | None, temperature: ArrayLike | None, rows: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Check the noise and the temperature of a draw for each of `rows`.

    Returns:
        Uniforms [*rows, 2] and float32 temperatures [*rows], or None where none were given.

    Raises:
        ValueError: wrong shape or dtype, or a temperature without uniforms.
    """
    if uniforms is not None:
        uniforms = expect(op, "uniforms", uniforms, "floating", (*rows, 2), "[..., 2]").astype(jnp.float32)
    if temperature is None:
        return uniforms, None
    if uniforms is None:
        raise ValueError(f"{op}: temperature is given but uniforms is None; without uniforms no token is drawn")
    temperature = jnp.asarray(temperature, jnp.float32)  # an integer 1 is a temperature too
    temperature = expect(op, "temperature", temperature, "floating", None, "[] or [...]")
    if temperature.shape not in ((), rows):
        raise ValueError(f"{op}: temperature has shape {temperature.shape}, expected () or {rows}")
    return uniforms, jnp.broadcast_to(temperature, rows)
