"""Window attention, alone and behind a rotation, against float64 NumPy: every implementation and case."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_kernels as gk
from gelato_kernels.attention import pallas, xla
from gelato_kernels.attention.api import BACKENDS
from gelato_kernels.attention.cases import CASES, case
from gelato_kernels.compilers import Compiler
from gelato_kernels.dispatch import runnable
from gelato_kernels.rotary import api as rotary
from gelato_kernels.rotary import cases as rotary_cases

window_attention = jax.jit(gk.window_attention, static_argnames=("scale", "implementation"))
IMPLEMENTATIONS = runnable(BACKENDS)
# The interpreter of Mosaic GPU takes milliseconds for every program, and its kernel wants heads that fill vectors.
MOSAIC = ("window", "huge_garbage", "huge_scores", "one_token", "bfloat16", "wide_heads")
PAIRS = [(name, case) for name in IMPLEMENTATIONS for case in CASES if not name.startswith("mosaic") or case in MOSAIC]


@pytest.fixture(autouse=True)
def float32_products():
    """An accelerator would multiply float32 with fewer bits; a CPU does not."""
    with jax.default_matmul_precision("float32"):
        yield


def attention64(query, cache_key, cache_value, lengths, window_key, window_value, scale=None):
    """Attention in float64, by row, token and head, and how far a unit of rounding in every product can move it."""
    rows, window, heads, size = query.shape
    groups = heads // cache_key.shape[1]
    scale = size**-0.5 if scale is None else scale
    out, reach = np.zeros(query.shape), np.zeros(query.shape)
    for row, step, head in np.ndindex(rows, window, heads):
        keys, values = (
            np.concatenate([old[row, head // groups, : lengths[row]], new[row, head // groups, : step + 1]])
            for old, new in ((cache_key, window_key), (cache_value, window_value))
        )
        keys, values = keys.astype(np.float64) * scale, values.astype(np.float64)
        scores = keys @ query[row, step, head]
        weights = np.exp(scores - scores.max())
        out[row, step, head] = weights @ values / weights.sum()
        largest = (np.abs(keys) @ np.abs(query[row, step, head])).max()
        reach[row, step, head] = (1 + largest) * np.abs(values).max()
    return out, reach


def assert_close(out, inputs):
    expected, reach = attention64(**inputs)
    assert out.dtype == np.float32
    assert out.shape == expected.shape
    unit = 2.0**-23 if inputs["cache_key"].dtype == np.float32 else 2.0**-9  # of float32, of bfloat16
    assert np.all(np.abs(out - expected) <= unit * reach)


@pytest.mark.parametrize(("implementation", "name"), [*PAIRS, *((None, case) for case in CASES)])
def test_is_the_softmax_over_cache_and_window(implementation, name):
    inputs = CASES[name]()
    assert_close(window_attention(**inputs, implementation=implementation), inputs)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_do_not_depend_on_their_batch(implementation):
    inputs = CASES["window"]()
    together = window_attention(**inputs, implementation=implementation)
    for row in range(len(together)):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        out = window_attention(**alone, implementation=implementation)[0]
        np.testing.assert_allclose(out, together[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "programs"), [("tpu", 256), ("triton", 256), ("triton", 12)])
def test_parts_are_merged_and_dead_slots_hidden(name, programs, monkeypatch):
    """Blocks that end before, on and behind a row's length, a last one that juts out, rows with nothing; nan beyond."""
    monkeypatch.setattr(pallas, "GPU_PROGRAMS", programs)  # of 24 blocks, one or two a program
    inputs = case(8, [40, 32, 17, 0], garbage=np.nan)
    order = ("query", "cache_key", "cache_value", "lengths", "window_key", "window_value")
    arrays = [inputs[argument] for argument in order]
    arrays[0] = arrays[0] / 4  # the kernel's queries are scaled
    compiler = Compiler(name=name, interpret=True)
    out = jax.jit(partial(pallas.window_attention, compiler=compiler, block_slots=16))(*arrays)
    assert_close(out, inputs)


def test_a_cpu_reads_a_prefix_that_holds_every_row(monkeypatch):
    """Texts that end before, on and behind the prefixes of 4, 16 and 40 slots; behind a prefix nothing is read."""
    monkeypatch.setattr(xla, "SHORTEST_PREFIX", 4)
    attention = jax.jit(lambda inputs: gk.window_attention(**inputs, implementation="cpu"))
    for longest in (0, 3, 4, 5, 16, 17, 40):
        inputs = case(longest, [longest // 3, longest], window=2)
        assert_close(attention(inputs), inputs)
    inputs = case(10, [16, 16], window=2, garbage=np.nan)
    assert_close(attention(inputs), inputs)


REFUSED = {
    "wide window": (
        case(11, [3], window=43, heads=(3, 1), slots=8),
        "129 queries share a key head, at most 128 are served",
    ),
    "wide head": (case(12, [3], window=1, size=136, slots=8), "heads have 136 numbers, at most 128 are served"),
    "float16": (
        case(13, [3], slots=8) | {"cache_value": np.zeros((1, 2, 8, 16), np.float16)},
        "a cache is float16, float32 and bfloat16 are served",
    ),
}


def test_mosaic_says_what_it_cannot_serve():
    for inputs, message in (
        (case(8, [3], size=24), "heads have 24 numbers"),
        (case(8, [3], size=16, slots=7), "a cache of 7 slots"),
    ):
        with pytest.raises(ValueError, match=f"'mosaic_gpu' cannot serve these inputs: {message}"):
            gk.window_attention(**inputs, implementation="mosaic_gpu")


@pytest.mark.parametrize("fault", REFUSED)
def test_a_kernel_says_what_it_cannot_serve(fault):
    inputs, message = REFUSED[fault]
    with pytest.raises(ValueError, match=f"'pallas_triton_interpret' cannot serve these inputs: {message}"):
        window_attention(**inputs, implementation="pallas_triton_interpret")
    window_attention(**inputs)


def turned_by_definition(inputs):
    """Queries, keys and values in float64: complex numbers turned by unit ones."""
    _, kv_heads, _, size = inputs["cache_key"].shape
    batch, window, _ = inputs["projected"].shape
    tokens = inputs["projected"].astype(np.float64).reshape(batch, window, -1, size)
    heads = tokens.shape[2] - 2 * kv_heads

    def turned(x, scale):
        if scale is not None:
            x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + inputs["norms"][2]) * scale
        pairs = x[..., : size // 2] + 1j * x[..., size // 2 :]
        pairs = pairs * (inputs["cosine"] + 1j * inputs["sine"].astype(np.float64))[:, :, None]
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    query_norm, key_norm, _ = inputs.get("norms", (None, None, None))
    query = turned(tokens[:, :, :heads], query_norm)
    key = turned(tokens[:, :, heads : heads + kv_heads], key_norm).transpose(0, 2, 1, 3)
    return query, key, tokens[:, :, heads + kv_heads :].transpose(0, 2, 1, 3)


@pytest.mark.parametrize("name", rotary_cases.CASES)
@pytest.mark.parametrize("implementation", [*runnable(rotary.BACKENDS), None])
def test_rotary_attention_norms_and_rotates_first(implementation, name):
    inputs = rotary_cases.CASES[name]()
    query, key, value = turned_by_definition(inputs)
    caches = {each: inputs[each] for each in ("cache_key", "cache_value", "lengths")}
    expected, reach = attention64(query, **caches, window_key=key, window_value=value, scale=inputs.get("scale"))
    batch, window = query.shape[:2]
    rows = np.broadcast_to(inputs.get("rows", window), batch)
    counts = (np.arange(window) < rows[:, None])[..., None]  # [B, T, 1]
    constant = {each: inputs.pop(each) for each in ("norms", "scale") if each in inputs}
    seen = jax.jit(partial(gk.rotary_attention, **constant, implementation=implementation))(**inputs)
    unit = 2.0**-22 if inputs["cache_key"].dtype == np.float32 else 2.0**-9  # of float32, of bfloat16
    wrong = np.abs(seen.output.reshape(expected.shape) - expected * counts[..., None])
    assert np.all(wrong <= unit * reach)
    np.testing.assert_allclose(seen.key, key * counts[:, None], rtol=0, atol=1e-5)
    np.testing.assert_allclose(seen.value, value * counts[:, None], rtol=0, atol=0)


def test_a_projection_that_does_not_fit_is_refused():
    inputs = rotary_cases.CASES["window"]()
    narrow = inputs | {"projected": inputs["projected"][..., 1:]}
    with pytest.raises(ValueError, match=r"projected has 159 numbers a token, expected \(N \+ 2 \* 2\) \* 16"):
        gk.rotary_attention(**narrow)
    with pytest.raises(ValueError, match=r"cosine has shape \(3, 5, 7\), expected \(3, 5, 8\) = \[B, T, H / 2\]"):
        gk.rotary_attention(**(inputs | {"cosine": inputs["cosine"][..., 1:]}))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("implementation", runnable(rotary.BACKENDS))
def test_a_layer_of_stacked_caches_is_attended_to_as_it_is_alone(implementation, narrow):
    cases = [rotary_cases.case(seed, [40, 0, 17], normed=True) for seed in (30, 31, 32)]
    if narrow:
        for inputs in cases:
            inputs |= {name: inputs[name].astype(jnp.bfloat16) for name in ("cache_key", "cache_value")}
    shared = {name: cases[0][name] for name in ("projected", "cosine", "sine", "lengths")} | {"rows": np.int32(3)}
    caches = {name: np.stack([inputs[name] for inputs in cases], axis=1) for name in ("cache_key", "cache_value")}
    scales = [np.stack([inputs["norms"][part] for inputs in cases]) for part in (0, 1)]

    @jax.jit
    def of_layer(layer):
        norms = (*scales, 1e-5)
        return gk.rotary_attention(**shared, **caches, norms=norms, layer=layer, implementation=implementation)

    for layer, nearest in ((0, 0), (1, 1), (2, 2), (-1, 0), (7, 2)):
        own = {name: cases[nearest][name] for name in ("cache_key", "cache_value", "norms")}
        alone = gk.rotary_attention(**shared, **own, implementation=implementation)
        for seen, expected in zip(of_layer(jnp.int32(layer)), alone, strict=True):
            if implementation == "native":
                np.testing.assert_array_equal(seen, expected)
            else:
                np.testing.assert_allclose(seen, expected, rtol=2e-5, atol=2e-5)


def test_stacked_caches_need_a_layer_and_a_layer_needs_them():
    inputs = rotary_cases.CASES["window"]()
    with pytest.raises(ValueError, match=r"cache_key has shape .* expected .*layers"):
        gk.rotary_attention(**inputs, layer=0)
    stacked = {name: inputs[name][:, None] for name in ("cache_key", "cache_value")}
    with pytest.raises(ValueError, match="cache_key has shape"):
        gk.rotary_attention(**(inputs | stacked))
