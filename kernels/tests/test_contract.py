"""What holds for every op: gradients refused, faults named, implementations chosen."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.dispatch import Backend, dispatch, runnable

LOGITS = jnp.zeros((2, 3, 8))
ROW, U = LOGITS[:, 0], jnp.full((2, 2), 0.5)
TOKENS, LENGTH = jnp.zeros((2, 2), jnp.int32), jnp.full(2, 2)
NOISE = gk.VerifyUniforms(U, U)
IS_BONUS = jnp.zeros(2, bool)
WEIGHTS, SCALE = jnp.zeros((5, 8), jnp.int8), jnp.ones(5)
BLOCKS = gk.quantize_blocks(jnp.zeros((5, 8)))
CACHE, FRESH = [jnp.zeros((2, 1, 4, 8))] * 2, [jnp.zeros((2, 1, 3, 8))] * 2
QUERY = jnp.zeros((2, 3, 2, 8))
ANGLES = [jnp.zeros((2, 3, 4))] * 2

FLOAT_OPS = {
    "entropy": lambda x: gk.entropy(x[:, 0]).entropy,
    "sample": lambda x: gk.sample(x[:, 0], U) * 1.0,
    "accept": lambda x: gk.accept(x, TOKENS, U, LENGTH, U) * 1.0,
    "sample_residual": lambda x: gk.sample_residual(x[:, 0], ROW, IS_BONUS, U).mass,
    "speculative_verify": lambda x: gk.speculative_verify(x, TOKENS, LENGTH, NOISE).residual_mass,
    "top_p_logits": lambda x: gk.top_p_logits(x, 0.9),
    "top_k_logits": lambda x: gk.top_k_logits(x, 3),
    "gumbel_argmax": lambda x: gk.gumbel_argmax(x, LOGITS) * 1.0,
    "quantize_rows": lambda x: gk.quantize_rows(x[0])[1],
    "quantized_matmul": lambda x: gk.quantized_matmul(x, WEIGHTS, SCALE),
    "quantize_blocks": lambda x: gk.quantize_blocks(x[0]).scales,
    "block_matmul": lambda x: gk.block_matmul(x, BLOCKS),
    "warp_logits": lambda x: gk.warp_logits(x, 0.7),
    "window_attention": lambda x: gk.window_attention(x[:, :, None], *CACHE, LENGTH, *FRESH),
    "write_window": lambda x: gk.write_window(x, x[:, :2], LENGTH),
    "rotary_attention": lambda x: gk.rotary_attention(jnp.tile(x, 4), *CACHE, LENGTH, *ANGLES).output,
}


@pytest.mark.parametrize("op", FLOAT_OPS)
def test_gradients_are_refused_not_zero(op):
    with pytest.raises(NotImplementedError, match=f"gelato_kernels offers no gradient of {op}"):
        jax.eval_shape(jax.grad(lambda x: jnp.sum(FLOAT_OPS[op](x))), LOGITS)


def test_inputs_held_constant_are_served_under_a_gradient():
    def loss(x):
        held = jax.lax.stop_gradient(x)
        return jnp.sum(x) + sum(jnp.sum(op(held)) for op in FLOAT_OPS.values())

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(LOGITS), 1.0)


def test_whole_numbers_are_levels_and_temperatures():
    shape = jax.eval_shape(lambda: (gk.top_p_logits(ROW, 1), gk.entropy(ROW, uniforms=U, temperature=1).token))
    assert (shape[0].dtype, shape[1].dtype) == (jnp.float32, jnp.int32)


def test_a_gradient_through_another_input_is_refused_too():
    with pytest.raises(NotImplementedError, match="no gradient of entropy"):
        jax.grad(lambda t: jnp.sum(gk.entropy(ROW, uniforms=U, temperature=t).entropy))(1.0)


FAULTS = {
    "rank": (lambda: gk.speculative_verify(ROW, TOKENS, LENGTH, NOISE), "(2, 8), expected (2, 3, any)"),
    "rows": (lambda: gk.speculative_verify(LOGITS[:, :2], TOKENS, LENGTH, NOISE), "(2, 2, 8), expected (2, 3, any)"),
    "vocabulary": (lambda: gk.sample_residual(ROW, ROW[:, :7], IS_BONUS, U), "(2, 7), expected (2, 8)"),
    "draft_vocabulary": (
        lambda: gk.speculative_verify(LOGITS, TOKENS, LENGTH, NOISE, draft_logits=LOGITS[:, :2, :5]),
        "(2, 2, 5), expected (2, 2, 8)",
    ),
    "accept_rows": (lambda: gk.accept(LOGITS[:, :1], TOKENS, U, LENGTH, U), "1 rows, expected 2 or 3"),
    "one_uniform": (lambda: gk.sample(ROW, U[:, :1]), "(2, 1), expected (2, 2)"),
    "length": (lambda: gk.match(TOKENS, TOKENS[:, :1], LENGTH[:1]), "(1,), expected (2,)"),
    "integer_logits": (lambda: gk.entropy(jnp.zeros((2, 8), jnp.int32)), "int32, expected floating"),
    "float_tokens": (lambda: gk.match(U, TOKENS[:, :1], LENGTH), "float32, expected integer"),
    "integer_flag": (lambda: gk.sample_residual(ROW, ROW, LENGTH, U), "int32, expected bool"),
    "scalar_logits": (lambda: gk.entropy(1.0), "(), expected at least one token"),
    "no_vocabulary": (lambda: gk.sample(jnp.zeros((2, 0)), U), "(2, 0), expected at least one token"),
    "temperature": (lambda: gk.entropy(ROW, uniforms=U, temperature=jnp.ones(3)), "(3,), expected () or (2,)"),
    "temperature_alone": (lambda: gk.entropy(ROW, temperature=1.0), "uniforms is None"),
    "top_p": (lambda: gk.top_p_logits(ROW, jnp.ones(3)), "(3,), expected () or (2,)"),
    "float_k": (lambda: gk.top_k_logits(ROW, 2.0), "float32, expected integer"),
    "noise": (lambda: gk.gumbel_argmax(ROW, ROW[:1]), "(1, 8), expected (2, 8)"),
    "inputs": (lambda: gk.quantized_matmul(ROW[:, :7], WEIGHTS, SCALE), "(2, 7), expected (..., 8)"),
    "outputs": (lambda: gk.quantized_matmul(ROW, WEIGHTS, SCALE[:4]), "(4,), expected (5,)"),
    "wide_weights": (lambda: gk.quantized_matmul(ROW, WEIGHTS.astype(jnp.int32), SCALE), "int32, expected int8"),
    "key_heads": (
        lambda: gk.window_attention(QUERY, *[jnp.zeros((2, 3, 4, 8))] * 2, LENGTH, *FRESH),
        "query has 2 heads, expected a multiple of cache_key's 3",
    ),
    "window_keys": (
        lambda: gk.window_attention(QUERY, *CACHE, LENGTH, FRESH[0][:, :, :2], FRESH[1]),
        "(2, 1, 2, 8), expected (2, 1, 3, 8)",
    ),
    "cache_axes": (lambda: gk.write_window(ROW, ROW, LENGTH), "(2, 8), expected at least three axes"),
    "cache_heads": (lambda: gk.write_window(LOGITS, LOGITS[..., :7], LENGTH), "(2, 3, 7), expected (2, any, 8)"),
    "cache_lengths": (lambda: gk.write_window(LOGITS, LOGITS, LENGTH[:1]), "(1,), expected (2,)"),
    "unknown": (lambda: gk.sample(ROW, U, implementation="cuda"), "no implementation 'cuda', there are ['mosaic_gpu'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_both_values(fault):
    call, message = FAULTS[fault]
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(call)


def _backend(name, value, **kwargs):
    return Backend(name, lambda x, extra: x + value, **kwargs)


def test_dispatch_takes_the_first_that_serves_the_platform():
    platform = jax.default_backend()
    other = "tpu" if platform == "cpu" else "cpu"
    too_wide = lambda x, extra: f"{x.shape[0]} > 2" if x.shape[0] > 2 else None  # noqa: E731
    backends = (
        _backend("elsewhere", 1.0, platforms=(other,)),
        _backend("narrow", 2.0, platforms=(platform,), refuses=too_wide),
        _backend("second", 3.0, platforms=(platform, other)),
        _backend("anywhere", 4.0),
        _backend("never", 5.0, platforms=(platform,)),
    )

    def run(n, implementation=None):
        return float(jax.jit(lambda x: dispatch("op", backends, implementation, x, None))(jnp.zeros(n))[0])

    assert run(2) == 2.0
    assert run(3) == 3.0
    assert run(3, "anywhere") == 4.0
    with pytest.raises(ValueError, match="'narrow' cannot serve these inputs: 3 > 2"):
        run(3, "narrow")
    backends = (_backend("missing", 6.0, platforms=(platform,), lacks=lambda: "no compiler"), *backends)
    assert run(2) == 2.0
    assert "missing" not in runnable(backends)
    with pytest.raises(ValueError, match="op: implementation 'missing' is not available: no compiler"):
        run(2, "missing")
    with pytest.raises(ValueError, match="op: no implementation 'fast', there are"):
        run(3, "fast")
