"""`unembed_entropy` against float64 NumPy, every implementation and case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.dispatch import runnable
from gelato_kernels.unembedding import api
from gelato_kernels.unembedding.cases import CASES, head

unembed_entropy = jax.jit(gk.unembed_entropy, static_argnames="implementation")


def logits64(inputs, implementation):
    """Logits of the case in float64, and what the implementation may change about each."""
    hidden, weight = (np.asarray(inputs[name], np.float64) for name in ("hidden", "weight"))
    weight = weight * np.asarray(inputs.get("scale", [1.0]), np.float64).reshape(-1, 1)
    narrow = inputs["weight"].dtype != np.float32 and implementation != "reference"
    # float32 sums; and half a unit of bfloat16's last bit of every hidden number, which are rounded at random.
    unit = 2.0**-9 if narrow else 2.0**-23
    return hidden @ weight.T, 6 * unit * np.sqrt(np.square(hidden) @ np.square(weight).T)


# Mosaic GPU's kernel wants rows that fill vectors, and its interpreter takes milliseconds for every one.
PAIRS = [
    (name, case)
    for name in runnable(api.BACKENDS)
    for case in CASES
    if not name.startswith("mosaic") or case == "wide_int8"
]


@pytest.mark.parametrize(("implementation", "case"), PAIRS)
def test_matches_float64(implementation, case, softmax64, assert_drawn):
    inputs = CASES[case]()
    stats = unembed_entropy(**inputs, implementation=implementation)
    logits, allowed = logits64(inputs, implementation)
    p = softmax64(logits)
    surprise = -np.log(p)
    # To first order a logit moves the log-sum-exp by p, and the entropy by p (1 + |surprise - H|).
    entropy = (p * surprise).sum(-1)
    spread = (p * allowed * (1 + np.abs(surprise - entropy[:, None]))).sum(-1) + 4e-6
    assert np.all(np.abs(stats.entropy - entropy) <= spread)
    top = logits.max(-1)
    logsumexp = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    assert np.all(np.abs(stats.logsumexp - logsumexp) <= (p * allowed).sum(-1) + 2e-6 * np.abs(logsumexp))
    rows, best = np.arange(len(p)), np.asarray(stats.argmax)
    assert np.all(logits[rows, best] >= top - 2 * allowed[rows, best])
    assert np.all(np.abs(stats.max_probability - p.max(-1)) <= 2 * p.max(-1) * allowed.max(-1) + 1e-6)
    if "uniforms" not in inputs:
        assert stats.token is None
        return
    temperature = np.broadcast_to(inputs.get("temperature", 1.0), len(p))
    for row, t in enumerate(temperature):
        if t <= 0:
            assert int(stats.token[row]) == best[row]
        else:
            weights = softmax64(logits[row] / t)
            noise = 2 * weights * allowed[row].max() / t
            assert_drawn(weights, inputs["uniforms"][row], int(stats.token[row]), noise)


@pytest.mark.parametrize("implementation", runnable(api.BACKENDS))
def test_a_row_with_a_nan_stays_in_the_vocabulary(implementation):
    inputs = CASES["wide_int8"]()
    hidden = np.full_like(inputs["hidden"], np.nan)
    argmax = np.asarray(unembed_entropy(**{**inputs, "hidden": hidden}, implementation=implementation).argmax)
    assert ((argmax >= 0) & (argmax < inputs["weight"].shape[0])).all()


def test_the_kernels_write_no_logits():
    """The program of a TPU's kernel holds no array of [rows, V]; that of `xla` does."""
    rows, vocab = 3, 50_000
    hidden, weight = jax.ShapeDtypeStruct((rows, 64), jnp.float32), jax.ShapeDtypeStruct((vocab, 64), jnp.float32)

    def sizes(implementation):
        jaxpr = jax.make_jaxpr(lambda h, w: gk.unembed_entropy(h, w, implementation=implementation))(hidden, weight)
        return [variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars]

    assert max(sizes("xla")) >= rows * vocab
    for implementation in ("pallas_tpu", "pallas_triton"):
        written = [size for size in sizes(implementation) if size != vocab * 64]  # the checks hand the weights through
        assert max(written) < rows * vocab


@pytest.mark.parametrize("rows", [0, api.MOST_ROWS + 1])
def test_rows_that_the_kernels_refuse(rows):
    inputs = head(1, rows, 300, 16)
    with pytest.raises(ValueError, match=f"'pallas_tpu' cannot serve these inputs: {rows} rows"):
        gk.unembed_entropy(**inputs, implementation="pallas_tpu")
    assert unembed_entropy(**inputs).entropy.shape == (rows,)


def test_what_mosaic_refuses():
    for inputs, message in ((head(1, 1, 300, 96), "weight has 96 inputs"), (head(1, 17, 300, 128), "17 rows")):
        with pytest.raises(ValueError, match=f"'mosaic_gpu' cannot serve these inputs: {message}"):
            gk.unembed_entropy(**inputs, implementation="mosaic_gpu")


def test_weights_too_wide_for_a_tpu_are_refused():
    weight = jax.ShapeDtypeStruct((50_000, 16_384), jnp.float32)
    call = lambda h, w: gk.unembed_entropy(h, w, implementation="pallas_tpu")  # noqa: E731
    with pytest.raises(ValueError, match="a block of weights has"):
        jax.eval_shape(call, jax.ShapeDtypeStruct((1, 16_384), jnp.float32), weight)
