"""Decoders whose matrices are in blocks: what they compute, and that a token's numbers do not know its window."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gelato_jax as gelato
import gelato_kernels
from gelato_jax.control import static
from gelato_jax.decoding import first_layers
from gelato_jax.models import Model, allocate, quantize, random_model, restore_blocks, write
from gelato_jax.testing import noisy_copy, tiny_config, tiny_pair
from gelato_kernels import native

SHAPES = {
    "llama": tiny_config(vocab_size=83, hidden_size=64, mlp_size=96, head_dim=16),
    "tied": tiny_config(vocab_size=83, hidden_size=64, mlp_size=96, head_dim=16, tied_head=True),
    "qwen2": tiny_config(vocab_size=83, hidden_size=64, mlp_size=96, head_dim=16, family="qwen2", qkv_bias=True),
    "odd": tiny_config(vocab_size=83, hidden_size=40, mlp_size=50, head_dim=8),
}
TOKENS = 34

needs_compiler = pytest.mark.skipif(not native.available(), reason=f"no compiled kernels: {native.reason()}")


@jax.jit
def _window(model, tokens, cache, lengths):
    decoder = model.bind()
    x, fresh = decoder.forward(tokens, cache, lengths)
    return decoder.unembed(x), write(cache, fresh, lengths, after=x)


def _logits(model, tokens, windows):
    """Logits of a text that is read in windows."""
    cache, read, rows = allocate(model.config, 1, 64, model.bind().cache_dtype), 0, []
    for size in windows:
        logits, cache = _window(model, tokens[:, read : read + size], cache, jnp.array([read], jnp.int32))
        rows.append(np.asarray(logits[0]))
        read += size
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, 83, (1, TOKENS)))


def _unpacked(model: Model) -> Model:
    """The float model that a model in blocks stands for."""
    config = dataclasses.replace(model.config, weight_format="float")
    floats = random_model(config).params
    params = {}
    for path, like in floats.items():
        of_layer = re.fullmatch(r"layers\.(\d+)\.(.+)", path)
        name, layer = (f"layers.{of_layer[2]}", jnp.int32(of_layer[1])) if of_layer else (path, None)
        scale = model.params.get(f"{name}_scale")
        if scale is None and model.params[name].dtype != jnp.uint16:
            params[path] = model.params[name] if layer is None else model.params[name][layer]
            continue
        first = path in ("head.kernel", "embed.embedding")
        minimums = model.params.get(f"{name}_minimum")
        blocks = gelato_kernels.BlockWeights(
            packed=model.params[name],
            scales=scale,
            minimums=minimums,
            format="bfloat16" if scale is None else "q8" if minimums is None else "q4",
            shape=like.shape if first else like.shape[::-1],
            layer=layer,
        )
        matrix = gelato_kernels.unpack_blocks(blocks)
        params[path] = matrix if first else matrix.T
    return Model(config=config, params=params)


@pytest.mark.parametrize("kind", ["q4", "q8", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_decoder_in_blocks_is_the_float_decoder_of_its_weights(name, kind, tokens):
    model = quantize(random_model(SHAPES[name]), kind)
    expected = _logits(_unpacked(model), tokens, [TOKENS])
    np.testing.assert_allclose(_logits(model, tokens, [TOKENS]), expected, atol=5e-3 * np.abs(expected).max())


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "cache_type"), [("q4", "auto"), ("q8", "auto"), ("bfloat16", "auto"), ("q4", "bfloat16")]
)
@pytest.mark.parametrize("name", SHAPES)
def test_a_tokens_logits_do_not_depend_on_its_window(name, kind, cache_type, tokens):
    model = quantize(random_model(SHAPES[name]), kind).with_cache(cache_type)
    alone = _logits(model, tokens, [1] * TOKENS)
    for window in (2, 3, 5, 9, 17):
        windows = [window] * (TOKENS // window) + [1] * (TOKENS % window)
        np.testing.assert_array_equal(_logits(model, tokens, windows), alone, err_msg=f"window {window}")


@pytest.mark.parametrize("kind", ["q4", "q8"])
def test_blocks_of_a_file_come_back_bit_for_bit(kind):
    stored = _unpacked(quantize(random_model(SHAPES["llama"]), kind))
    back = restore_blocks(stored)
    assert back.config.weight_format == kind
    for path, array in _unpacked(back).params.items():
        np.testing.assert_array_equal(array, stored.params[path], err_msg=path)


def test_weights_of_one_scale_an_output_become_blocks_without_another_rounding():
    model = quantize(random_model(SHAPES["llama"]), "int8")
    blocks = _unpacked(quantize(model, "q8"))
    kernel, scale = model.params["layers.0.mlp.down.kernel"], model.params["layers.0.mlp.down.kernel_scale"]
    expected = (kernel * scale.astype(jnp.float16).astype(jnp.float32)[:, None]).T
    np.testing.assert_array_equal(blocks.params["layers.0.mlp.down.kernel"], expected)
    with pytest.raises(ValueError, match="'int8', cannot become 'q4'"):
        quantize(model, "q4")


@needs_compiler
@pytest.mark.parametrize(("kind", "cache_type"), [("q4", "auto"), ("bfloat16", "auto"), ("q8", "bfloat16")])
def test_greedy_text_of_drafts_is_the_targets_own_without_ties(kind, cache_type):
    """No near-tie is excused: a token's logits have the same bits in every window."""
    target = quantize(random_model(SHAPES["llama"], 1), kind).with_cache(cache_type)
    pair = dataclasses.replace(tiny_pair(vocab_size=83), target=target, draft=noisy_copy(_unpacked(target), 0.05))
    settings = gelato.DecodeSettings(max_new_tokens=60, max_draft_length=6)
    prompts = [[number, 5, 7] for number in range(12)]
    expected = gelato.autoregressive(pair, prompts, settings=settings)
    answer = gelato.generate(pair, prompts, settings=settings, controller=static(5))
    assert answer.tokens == expected


@pytest.mark.parametrize(("rows", "cache_type"), [(1, "auto"), pytest.param(3, "bfloat16", marks=needs_compiler)])
def test_layers_in_a_stack_are_read_and_cached_in_place(rows, cache_type):
    """A slice of a stack, or of a cache, that was copied in every step would cost as much as the step."""
    config = dataclasses.replace(SHAPES["llama"], hidden_size=256, mlp_size=512)
    model = quantize(random_model(config), "q8").with_cache(cache_type)
    cache, lengths = allocate(model.config, rows, 512, model.bind().cache_dtype), jnp.full(rows, 40, jnp.int32)

    @partial(jax.jit, donate_argnames="cache")
    def steps(model, cache, token):
        def step(_, carry):
            cache, token = carry
            logits, cache = _window.__wrapped__(model, token, cache, lengths)
            return cache, logits.argmax(axis=-1)

        return jax.lax.fori_loop(0, 3, step, (cache, token))

    memory = steps.lower(model, cache, jnp.ones((rows, 1), jnp.int32)).compile().memory_analysis()
    layer = model.params["layers.mlp.gate_up.kernel"][0].nbytes
    assert memory.temp_size_in_bytes < layer / 2
    assert memory.alias_size_in_bytes >= sum(array.nbytes for array in jax.tree.leaves(cache))


@needs_compiler
@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_layers_of_a_stack_are_a_draft(layers, tokens):
    target = quantize(random_model(SHAPES["llama"]), "q4")
    draft = first_layers(target, layers).model
    floats = first_layers(_unpacked(target), layers).model
    expected = _logits(floats, tokens, [TOKENS])
    np.testing.assert_allclose(_logits(draft, tokens, [TOKENS]), expected, atol=5e-3 * np.abs(expected).max())
