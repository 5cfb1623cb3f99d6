"""What the ops are compared with: the steps as a textbook lists them, each a program of its own that is waited for.

Each function takes an op's inputs and gives a call of no arguments: what it prepares is not timed.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gelato_kernels.verification.records import VerifyUniforms


def _step(function: Callable[..., Any]) -> Callable[..., Any]:
    program = jax.jit(function)
    return lambda *arrays: jax.block_until_ready(program(*arrays))


@functools.cache
def _key() -> Array:
    return jax.random.key(0)  # an argument of the steps: a constant's random numbers could be folded


_softmax = _step(lambda logits: jax.nn.softmax(logits, axis=-1))
_entropy = _step(lambda p: -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)), axis=-1))
_max = _step(lambda p: jnp.max(p, axis=-1))
_argmax = _step(lambda logits: jnp.argmax(logits, axis=-1))
_logsumexp = _step(lambda logits: jax.nn.logsumexp(logits, axis=-1))
_categorical = _step(lambda key, logits: jax.random.categorical(key, logits, axis=-1))
_of_token = _step(lambda p, tokens: jnp.take_along_axis(p[:, : tokens.shape[1]], tokens[..., None], axis=-1)[..., 0])
_without = _step(lambda p, q: jnp.maximum(p - jnp.pad(q, ((0, 0), (0, 1), (0, 0))), 0.0))
_log = _step(jnp.log)
_at = _step(lambda rows, index: jnp.take_along_axis(rows, index[:, None], axis=1)[:, 0])
_matmul = _step(jnp.matmul)
_matmuls = _step(lambda x, weights: [jnp.matmul(x, w) for w in weights])


@_step
def _stop(p: Array, q: Array, uniforms: Array, length: Array) -> Array:
    accepted = (uniforms * q < p) & (jnp.arange(p.shape[1]) < length[:, None])
    return jnp.sum(jnp.cumprod(accepted.astype(jnp.int32), axis=1), axis=1)


def entropy(*, logits: Array, uniforms: Array) -> Callable[[], Any]:
    """Softmax, entropy, maximum, argmax, log-sum-exp and a draw of logits [B, V]: six programs."""
    del uniforms  # `jax.random.categorical` makes its own

    def call() -> Any:
        p = _softmax(logits)
        return _entropy(p), _max(p), _argmax(logits), _logsumexp(logits), _categorical(_key(), logits)

    return call


def speculative_verify(
    *, target_logits: Array, draft_tokens: Array, draft_length: Array, uniforms: VerifyUniforms, draft_logits: Array
) -> Callable[[], Any]:
    """Softmaxes of all rows, acceptance, then residual and draw at every position: nine programs."""

    def call() -> Any:
        p, q = _softmax(target_logits), _softmax(draft_logits)
        stop = _stop(_of_token(p, draft_tokens), _of_token(q, draft_tokens), uniforms.accept, draft_length)
        tokens = _categorical(_key(), _log(_without(p, q)))
        return stop, _at(tokens, stop)

    return call


def quantized_matmul(*, x: Array, weights: Array, scale: Array) -> Callable[[], Any]:
    """The product with float32 weights, stored [in, out] as most models store them."""
    wide = jax.block_until_ready((weights * scale[:, None]).T)
    return lambda: _matmul(x, wide)


def quantized_layers(*, x: Array, weights: tuple[Array, ...], scale: tuple[Array, ...]) -> Callable[[], Any]:
    """The products with float32 weights, stored [in, out], all in one program as a decoder has them."""
    wide = jax.block_until_ready([(w * s[:, None]).T for w, s in zip(weights, scale, strict=True)])
    return lambda: _matmuls(x, wide)


def unembed_entropy(*, hidden: Array, weight: Array, scale: Array, uniforms: Array) -> Callable[[], Any]:
    """Logits by a float32 product, then the steps of `entropy`: seven programs."""
    product = quantized_matmul(x=hidden, weights=weight, scale=scale)
    return lambda: entropy(logits=product(), uniforms=uniforms)()
