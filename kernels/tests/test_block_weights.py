"""Block weights against float64 NumPy: what they stand for, and their products, every implementation and case."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.block_weights.api import BACKENDS, FORMATS
from gelato_kernels.block_weights.cases import CASES, around, matrix
from gelato_kernels.dispatch import runnable

IMPLEMENTATIONS = runnable(BACKENDS)
EPSILON = 2.0**-23
STEP = 1 / 16_383  # of a row's digits, as a share of its largest magnitude


def product64(x, weights, norm=None, gated=False, bias=None, residual=None, rows=None):
    """The product in float64, and how far rounding may move it."""
    x, matrix = np.asarray(x, np.float64), np.asarray(gk.unpack_blocks(weights), np.float64)
    if gated:
        gate, up = np.split(x, 2, axis=-1)
        x = gate / (1 + np.exp(-gate)) * up
    if norm is not None:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm[1]) * norm[0]
    largest = np.abs(x).max(-1, keepdims=True, initial=0.0)
    moved = np.abs(x) * EPSILON * 8
    if weights.format != "bfloat16":
        moved = moved + largest * STEP / 2 + (largest < 1e-30) * largest
    # A product is added as scale * sum and minimum * sum, which may cancel: each is as large as its own magnitudes.
    spread = np.abs(matrix) + (15 * 0.1 + 1.0 if weights.format == "q4" else 0.0)
    out, allowed = x @ matrix.T, moved @ np.abs(matrix).T + np.abs(x) @ spread.T * EPSILON * 16
    for added in (bias, residual):
        out = out if added is None else out + added
        allowed = allowed if added is None else allowed + np.abs(added) * EPSILON + np.abs(out) * EPSILON
    if rows is not None:
        out = np.where((np.arange(out.shape[-2]) < np.asarray(rows)[..., None])[..., None], out, 0.0)
    return out, allowed


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_is_the_product_with_what_the_weights_stand_for(implementation, case):
    inputs = CASES[case]()
    static = {name: inputs.pop(name) for name in ("norm", "gated") if name in inputs}
    product = jax.jit(lambda arrays: gk.block_matmul(**arrays, **static, implementation=implementation))
    out = np.asarray(product(inputs))
    inputs |= static
    expected, allowed = product64(**inputs)
    assert out.dtype == np.float32
    assert out.shape == expected.shape
    assert np.all(np.abs(out - expected) <= allowed)


@pytest.mark.parametrize("format", ["q4", "q8"])
def test_packing_loses_nothing(format):
    """The numbers of a file, float16 with all: each weight is its own, in float32."""
    rng = np.random.default_rng(0)
    out, inputs = 37, 96
    q = rng.integers(0, 16, (out, inputs)) if format == "q4" else rng.integers(-128, 128, (out, inputs))
    scale = rng.standard_normal((out, 3)).astype(np.float16)
    scale[0] = [6e-8, 65504, -1e-6]  # the least, the largest, a subnormal
    minimum = rng.standard_normal((out, 3)).astype(np.float16) if format == "q4" else None
    weights = gk.pack_blocks(q.astype(np.uint8 if format == "q4" else np.int8), scale, minimum)
    expected = q * np.repeat(scale.astype(np.float32), 32, 1)
    if minimum is not None:
        expected = expected + np.repeat(minimum.astype(np.float32), 32, 1)
    assert (weights.format, weights.shape) == (format, (out, inputs))
    assert weights.packed.shape == (3, 3, 256 if format == "q4" else 512)
    np.testing.assert_array_equal(gk.unpack_blocks(weights), expected.astype(np.float32))


def test_one_scale_an_output_is_repeated():
    q = np.arange(-60, 68, dtype=np.int8).reshape(2, 64)
    scale = np.array([[0.5], [0.25]], np.float32)
    np.testing.assert_array_equal(gk.unpack_blocks(gk.pack_blocks(q, scale)), q * scale)


@pytest.mark.parametrize("format", ["q4", "q8"])
@pytest.mark.parametrize("inputs", [96, 47])
def test_weights_are_rounded_to_half_a_step(format, inputs):
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((20, inputs), np.float32) * rng.uniform(1e-2, 1e2, (20, 1)).astype(np.float32)
    weights[3] = 0.0
    weights[4] = 7.0
    weights[5] = 1e-9  # below what float16 holds
    rounded = np.asarray(gk.unpack_blocks(gk.quantize_blocks(weights, format)))
    groups = np.pad(weights, ((0, 0), (0, -inputs % 32)), mode="edge").reshape(20, -1, 32)
    steps = np.ptp(groups, axis=-1) / 15 if format == "q4" else np.abs(groups).max(-1) / 127
    size = np.abs(groups).max(-1)
    # Float16 has 11 bits: they move a scale, of which there are up to 127, and a minimum.
    allowed = np.repeat(steps * 0.5001 + size * 2.0**-10 + 1e-7, 32, axis=1)[:, :inputs]
    assert np.all(np.abs(rounded - weights) <= allowed)


def test_bfloat16_is_the_nearest():
    weights = np.random.default_rng(1).standard_normal((20, 47), np.float32)
    rounded = gk.unpack_blocks(gk.quantize_blocks(weights, "bfloat16"))
    np.testing.assert_array_equal(rounded, weights.astype(jnp.bfloat16).astype(np.float32))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_number_that_is_none_stays_in_its_row(implementation):
    x = np.ones((2, 3, 64), np.float32)
    x[0, 1, 4], x[1, 2, 5] = np.nan, np.inf
    for format in ("q4", "bfloat16"):
        out = gk.block_matmul(x, matrix(0, 40, 64, format), implementation=implementation)
        np.testing.assert_array_equal(np.isnan(out).all(-1), ~np.isfinite(x).all(-1))
        np.testing.assert_array_equal(np.isnan(out).any(-1), ~np.isfinite(x).all(-1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_that_do_not_count_are_zero_whatever_they_hold(implementation):
    inputs = CASES["added"]()
    inputs["x"][3:] = np.nan
    product = jax.jit(lambda rows: gk.block_matmul(**(inputs | {"rows": rows}), implementation=implementation))
    for rows in (-1, 0, 1, 3):
        np.testing.assert_array_equal(product(rows)[max(rows, 0) :], 0.0)
        assert np.isfinite(product(rows)).all()
    assert np.isnan(product(9)[3:]).all()


def test_a_product_under_vmap_and_in_a_loop():
    inputs = CASES["window"]()
    x = jnp.asarray(inputs["x"][0])
    expected = gk.block_matmul(x, inputs["weights"])
    product = lambda row: gk.block_matmul(row, inputs["weights"])  # noqa: E731
    np.testing.assert_allclose(jax.vmap(product)(x), expected, rtol=1e-5, atol=1e-4)
    body = lambda _, y: product(x + 0 * y[:, :1])  # noqa: E731
    looped = jax.jit(lambda: jax.lax.fori_loop(0, 3, body, jnp.zeros_like(expected)))()
    np.testing.assert_allclose(looped, expected, rtol=1e-5, atol=1e-4)


WEIGHTS = matrix(0, 5, 64)
X, ROW = jnp.zeros((2, 64)), jnp.zeros((1, 32))
FAULTS = {
    "inputs": (lambda: gk.block_matmul(X[:, :60], WEIGHTS), "(2, 60), expected (..., 64)"),
    "gated inputs": (lambda: gk.block_matmul(X, WEIGHTS, gated=True), "(2, 64), expected (..., 128)"),
    "both": (lambda: gk.block_matmul(jnp.zeros(128), WEIGHTS, gated=True, norm=(X[0], 1.0)), "norm and gated are both"),
    "rows of too many": (lambda: gk.block_matmul(X, WEIGHTS, rows=[1, 2, 3]), "rows has shape (3,)"),
    "no rows": (lambda: gk.block_matmul(X[0], WEIGHTS, rows=1), "rows is given and x has shape (64,)"),
    "residual": (lambda: gk.block_matmul(X, WEIGHTS, residual=X), "(2, 64), expected (2, 5)"),
    "norm": (lambda: gk.block_matmul(X, WEIGHTS, norm=(X, 1.0)), "(2, 64), expected (64,)"),
    "wide": (lambda: gk.pack_blocks(X.astype(jnp.int32), X[:, :2]), "int32 and there is no minimum, expected int8"),
    "scales": (lambda: gk.pack_blocks(X.astype(jnp.int8), X[:, :3]), "(2, 3), expected (2, 2) or (2, 1)"),
    "format": (lambda: gk.quantize_blocks(X, "q5"), "no format 'q5', there are q4, q8, bfloat16"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_both_values(fault):
    call, message = FAULTS[fault]
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(call)


@pytest.mark.parametrize("format", ["q4", "bfloat16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_loop_keeps_no_other_weights(implementation, format):
    """XLA would widen, or copy, what does not change ahead of a loop."""
    out, inputs, layers = 256, 512, 4

    @jax.jit
    def loop(x, weights):
        def body(state):
            count, x = state
            for w in weights:
                y = gk.block_matmul(x * x, w, implementation=implementation)
                x = x + jnp.concatenate([y, -y], axis=-1)
            return count + 1, x

        return jax.lax.while_loop(lambda state: state[0] < 3, body, (0, x))[1]

    compiled = loop.lower(jnp.zeros((2, inputs)), [matrix(i, out, inputs, format) for i in range(layers)]).compile()
    widened = 4 * out * inputs
    allowed = {"native": widened / 8, "reference": (layers - 1) * widened}
    assert compiled.memory_analysis().temp_size_in_bytes < allowed[implementation]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(50, 70), (16, 32), (3, 5)])
def test_rows_are_those_of_the_matrix(format, shape):
    weights = gk.quantize_blocks(jax.random.normal(jax.random.key(0), shape), format)
    rows = jnp.array([[0, 2], [shape[0] - 1, 1]])
    np.testing.assert_array_equal(gk.unpack_rows(weights, rows), gk.unpack_blocks(weights)[rows])
    np.testing.assert_array_equal(
        gk.unpack_rows(weights, jnp.array([-1, 99])), gk.unpack_blocks(weights)[:: shape[0] - 1]
    )
    with pytest.raises(ValueError, match=r"rows has dtype float32"):
        gk.unpack_rows(weights, jnp.zeros(2))


def stacked(cases):
    """Inputs of several cases of one shape: their weights, norms and biases in stacks."""
    weights = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(inputs["weights"] for inputs in cases))
    around = {name: np.stack([inputs[name] for inputs in cases]) for name in ("bias",) if name in cases[0]}
    if "norm" in cases[0]:
        around["norm"] = (np.stack([inputs["norm"][0] for inputs in cases]), cases[0]["norm"][1])
    return weights, around


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_layer_of_a_stack_is_as_it_is_alone(implementation, format):
    cases = [around(seed, 50, 2, 3, 70, format=format, norm=True) for seed in (20, 21, 22)]
    weights, own = stacked(cases)
    shared = {name: cases[0][name] for name in ("x", "residual", "rows")}

    @jax.jit
    def of_layer(layer):
        of = dataclasses.replace(weights, layer=layer)
        return gk.block_matmul(weights=of, **shared, **own, implementation=implementation)

    alone = [gk.block_matmul(**{**inputs, **shared}, implementation=implementation) for inputs in cases]
    for layer, nearest in ((0, 0), (1, 1), (2, 2), (-1, 0), (7, 2)):
        out = np.asarray(of_layer(jnp.int32(layer)))
        if implementation == "native":
            np.testing.assert_array_equal(out, alone[nearest])
        else:
            np.testing.assert_allclose(out, alone[nearest], rtol=1e-5, atol=1e-4)
    unpacked = gk.unpack_blocks(dataclasses.replace(weights, layer=jnp.int32(1)))
    np.testing.assert_array_equal(unpacked, gk.unpack_blocks(cases[1]["weights"]))


def test_a_stack_needs_a_layer_and_a_layer_a_stack():
    """Else the compiled kernel would read another's memory."""
    inputs = around(20, 50, 2, 3, 70)
    weights, _ = stacked([inputs, inputs])
    for wrong in (weights, dataclasses.replace(inputs["weights"], layer=jnp.int32(1))):
        for read in (lambda w: gk.block_matmul(inputs["x"], w), gk.unpack_blocks, lambda w: gk.unpack_rows(w, 0)):
            with pytest.raises(ValueError, match=r"weights\.packed has shape .* layer, expected"):
                read(wrong)
    with pytest.raises(ValueError, match=r"weights\.layer has dtype float32"):
        gk.block_matmul(inputs["x"], dataclasses.replace(weights, layer=jnp.float32(0)))
    rows = gk.unpack_rows(dataclasses.replace(weights, layer=1), jnp.array([3, 49]))
    np.testing.assert_array_equal(rows, gk.unpack_blocks(inputs["weights"])[jnp.array([3, 49])])


def test_what_goes_with_a_stack_is_stacked():
    inputs = around(20, 50, 2, 3, 70, norm=True)
    weights, own = stacked([inputs, inputs])
    weights = dataclasses.replace(weights, layer=jnp.int32(0))
    with pytest.raises(ValueError, match=r"norm has shape \(70,\), expected"):
        gk.block_matmul(inputs["x"], weights, norm=inputs["norm"])
    with pytest.raises(ValueError, match=r"bias has shape \(50,\), expected"):
        gk.block_matmul(inputs["x"], weights, norm=own["norm"], bias=inputs["bias"])


@pytest.mark.skipif("native" not in IMPLEMENTATIONS, reason="no compiled kernels here")
def test_a_stack_is_read_in_place():
    """Whose copy of a layer in every step would cost as much as the product."""
    inputs = around(20, 512, 1, 1, 512, norm=True)
    weights, own = stacked([inputs] * 4)

    def layers(x, weights):
        def step(x, layer):
            out = gk.block_matmul(x, dataclasses.replace(weights, layer=layer), norm=own["norm"])
            return out, ()

        return jax.lax.scan(step, x, jnp.arange(4))[0]

    memory = jax.jit(layers).lower(inputs["x"], weights).compile().memory_analysis()
    assert memory.temp_size_in_bytes < weights.packed[0].nbytes / 4
