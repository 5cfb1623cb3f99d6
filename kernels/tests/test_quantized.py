"""8-bit products against float64 NumPy, and the memory that a decoding loop needs for them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels import tuning
from gelato_kernels.dispatch import runnable
from gelato_kernels.quantized import limits, xla
from gelato_kernels.quantized.api import BACKENDS
from gelato_kernels.quantized.cases import CASES

quantized_matmul = jax.jit(gk.quantized_matmul, static_argnames="implementation")
EPSILON = 2.0**-23


RUNNABLE = {backend.name: backend for backend in BACKENDS if backend.name in runnable(BACKENDS)}
DEFAULT = "cpu" if jax.default_backend() == "cpu" else "xla"  # which rounds as the kernels do


def rounding(implementation, x):
    """What the implementation may change about each number of x, float64."""
    if implementation == "xla" or implementation.startswith("pallas"):
        return np.abs(x) * (0.0 if x.dtype == jnp.bfloat16 else 2.0**-9)  # half a unit of bfloat16's last bit
    rows = x[..., 0].size
    pieces = rows < xla.MANY_ROWS if rows > 1 else x.size * 4 >= xla.FUSED_BYTES
    if implementation == "cpu" and pieces:
        return np.abs(x).max(-1, keepdims=True) / 64_516 * np.ones_like(x)  # half a step of the second piece
    return np.zeros_like(x)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", [None, *RUNNABLE])
def test_is_the_product_with_what_the_weights_stand_for(implementation, case):
    inputs = CASES[case]()
    if implementation and (refuses := RUNNABLE[implementation].refuses) and (reason := refuses(**inputs)):
        with pytest.raises(ValueError, match=re.escape(reason)):
            quantized_matmul(**inputs, implementation=implementation)
        return
    out = np.asarray(quantized_matmul(**inputs, implementation=implementation))
    x, weights, scale = (inputs[name].astype(np.float64) for name in ("x", "weights", "scale"))
    assert out.dtype == np.float32
    assert out.shape == (*x.shape[:-1], len(scale))
    allowed = rounding(implementation or DEFAULT, inputs["x"]).astype(np.float64) if x.size else x
    sums = (np.abs(x) * EPSILON * np.sqrt(x.shape[-1]) + allowed) @ np.abs(weights * scale[:, None]).T
    assert np.all(np.abs(out - x @ (weights * scale[:, None]).T) <= sums)


def test_kernels_refuse_what_they_cannot_hold():
    row = lambda inputs: jax.ShapeDtypeStruct((1, inputs), jnp.float32)  # noqa: E731
    wide = jax.ShapeDtypeStruct((8, limits.MOST_INPUTS + 1), jnp.int8)
    large = jax.ShapeDtypeStruct((2**17, 2**14), jnp.int8)
    for name, weights, fault in (("tpu", wide, "32769 inputs"), ("triton", large, "2147483648 numbers")):
        x, scale = row(weights.shape[1]), jax.ShapeDtypeStruct(weights.shape[:1], jnp.float32)
        call = functools.partial(gk.quantized_matmul, implementation=f"pallas_{name}")
        with pytest.raises(ValueError, match=fault):
            jax.eval_shape(call, x, weights, scale)


@pytest.mark.parametrize("target", ["tpu", "triton"])
def test_blocks_of_any_tuned_size_give_the_same(target):
    """The default leaves most cases one block on a TPU; with 128 outputs there are many, the last one ragged."""
    inputs = CASES["ragged"]()
    call = functools.partial(gk.quantized_matmul, **inputs, implementation=f"pallas_{target}_interpret")
    with tuning.trial("quantized_matmul", 128):
        np.testing.assert_allclose(call(), quantized_matmul(**inputs, implementation="xla"), rtol=1e-5, atol=1e-5)


def test_rows_are_rounded_to_half_a_step():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((40, 30), np.float32) * rng.uniform(1e-3, 1e3, (40, 1)).astype(np.float32)
    weights[7] = 0.0
    values, scale = gk.quantize_rows(weights)
    assert (values.dtype, scale.dtype) == (jnp.int8, jnp.float32)
    np.testing.assert_array_equal(np.abs(values).max(1), np.where(np.arange(40) == 7, 0, 127))
    error = np.abs(np.asarray(values, np.float64) * np.asarray(scale)[:, None] - weights)
    assert np.all(error <= np.asarray(scale)[:, None] * 0.50001)
    np.testing.assert_array_equal(np.asarray(values, np.float32)[7], 0.0)


def test_a_number_that_is_none_stays_in_its_row():
    x = np.ones((2, 3, 8), np.float32)
    x[0, 1, 4] = np.nan
    for rows in (x, x[:1, 1:2]):
        out = quantized_matmul(rows, np.ones((5, 8), np.int8), np.ones(5, np.float32))
        np.testing.assert_array_equal(np.isnan(out).all(-1), np.isnan(rows).any(-1))


about_the_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="about the CPU's compiler")
LAYERS, OUT, INPUTS = 4, 256, 512


def loop_memory(rows: int) -> int:
    """Temporary bytes of a loop over LAYERS products of weights that do not change."""

    @jax.jit
    def loop(x, layers):
        def body(state):
            count, x = state
            for weights, scale in layers:
                # A producer (the square) and a consumer of each product, as a decoder has.
                y = gk.quantized_matmul(x * jnp.square(x), weights, scale, implementation="cpu")
                x = x + jnp.concatenate([y, -y], axis=-1)
            return count + 1, x

        return jax.lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]

    weights = jax.ShapeDtypeStruct((OUT, INPUTS), jnp.int8), jax.ShapeDtypeStruct((OUT,), jnp.float32)
    compiled = loop.lower(jax.ShapeDtypeStruct((rows, INPUTS), jnp.float32), [weights] * LAYERS).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@about_the_cpu
@pytest.mark.parametrize("rows", [1, 5])
def test_a_loop_widens_no_weights_ahead(rows):
    assert loop_memory(rows) < OUT * INPUTS  # of LAYERS * OUT * INPUTS * 4 if widened


@about_the_cpu
def test_weights_widened_ahead_are_caught(monkeypatch):
    """The alarm above rings: without the barrier, XLA keeps float32 weights."""
    monkeypatch.setattr(xla.lax, "optimization_barrier", lambda operands: operands)
    assert loop_memory(1) >= LAYERS * OUT * INPUTS * 4
