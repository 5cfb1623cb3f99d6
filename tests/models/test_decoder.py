"""Windows on a cache, exits, frozen rows and skipped layers: the decoder agrees with itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.config import ModelConfig, RopeScaling
from gelato_jax.models import Model, allocate, exit_work, parameter_shapes, random_model, write
from gelato_kernels.attention import xla

TOLERANCE = 1e-5  # float32 sums in another order, on logits of size one
SCALING = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=32)


def config(family: str, **changes) -> ModelConfig:
    features = {
        "llama": {"rope_scaling": SCALING},
        "qwen2": {"qkv_bias": True, "tied_head": False},
        "qwen3": {"qk_norm": True, "head_dim": 6},
    }[family]
    values = {
        "vocab_size": 19,
        "hidden_size": 16,
        "mlp_size": 24,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 4,
        "rope_theta": 100.0,
        "norm_eps": 1e-5,
        "max_positions": 64,
        "exits": (1, 2, 3),
        **features,
        **changes,
    }
    return ModelConfig(family=family, **values)


def disturbed(model: Model) -> Model:
    """Norms and biases that do something: as drawn, they are ones and zeros."""
    rng = np.random.default_rng(3)
    params = {
        path: array + 0.3 * rng.standard_normal(array.shape, np.float32) if path.endswith(("scale", "bias")) else array
        for path, array in model.params.items()
    }
    return Model(config=model.config, params=params)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Attention prefixes from 16 slots, so that short texts cross from one to the next."""
    monkeypatch.setattr(xla, "SHORTEST_PREFIX", 16)


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def model(request) -> Model:
    return disturbed(random_model(config(request.param), 7))


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 19, (3, 40))


@jax.jit
def forward(model: Model, tokens, kept, lengths):
    decoder = model.bind()
    hidden, fresh = decoder.forward(tokens, kept, lengths)
    return hidden, decoder.unembed(hidden), fresh


def whole(model: Model, tokens):
    rows, size = tokens.shape
    return forward(model, tokens, allocate(model.config, rows, size), jnp.zeros(rows, jnp.int32))


def test_windows_on_a_cache_are_the_whole_sequence(model, tokens):
    """Rows of different lengths, windows of 7, 1 and 5 tokens, over a prefix of 16 slots and beyond."""
    _, expected, fresh = whole(model, tokens)
    start = jnp.asarray([2, 9, 15])
    filled = write(allocate(model.config, 3, 48), fresh, jnp.zeros(3, jnp.int32), after=expected)
    # What lies at or above a row's length must not be seen.
    garbage = jnp.arange(48)[None, None, :, None] >= start[:, None, None, None]
    kept = jax.tree.map(lambda array: jnp.where(garbage, 100.0, array), filled)
    lengths = start
    for window in (7, 1, 5):
        steps = lengths[:, None] + jnp.arange(window)
        hidden, logits, new = forward(model, jnp.take_along_axis(tokens, steps, axis=1), kept, lengths)
        wanted = jnp.take_along_axis(expected, steps[..., None], axis=1)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)
        kept = write(kept, new, lengths, after=hidden)
        lengths = lengths + window


def test_every_position_sees_its_past_alone(model, tokens):
    changed = tokens.copy()
    changed[:, 25:] = (changed[:, 25:] + 1) % 19
    before, after = whole(model, tokens)[1], whole(model, changed)[1]
    np.testing.assert_array_equal(before[:, :25], after[:, :25])
    assert np.abs(np.asarray(before - after))[:, 25:].max(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize("index", [0, 1])
def test_an_exit_is_a_shallower_model(model, tokens, index):
    """Logits at an exit are those of a model of that many layers, with the exit's norm as its last."""
    depth = model.config.exits[index]
    shallow = dataclasses.replace(model.config, num_layers=depth, exits=(depth,))
    params = {path: model.params[path] for path in parameter_shapes(shallow)}
    params["norm.scale"] = model.params[f"exit_norms.{index}.scale"]
    _, expected, _ = whole(Model(config=shallow, params=params), tokens)

    @jax.jit
    def run(model):
        decoder = model.bind()
        lengths = jnp.zeros(3, jnp.int32)
        empty = allocate(model.config, 3, 40)
        x, _ = decoder.run(decoder.embed_tokens(tokens), decoder.angles(lengths, 40), empty, lengths, 0, depth)
        return decoder.unembed(x, index)

    np.testing.assert_allclose(run(model), expected, rtol=0, atol=TOLERANCE)


def test_frozen_rows_cache_what_skipped_layers_cache(model, tokens):
    @jax.jit
    def run(model, moving):
        decoder = model.bind()
        lengths = jnp.full(3, 6, jnp.int32)
        kept = jax.tree.map(lambda array: array + 0.1, allocate(model.config, 3, 16))
        angles = decoder.angles(lengths, 1)
        x, _ = decoder.run(decoder.embed_tokens(tokens[:, :1]), angles, kept, lengths, 0, 1)
        return (
            x,
            decoder.run(x, angles, kept, lengths, 1, 3, moving[:, None]),
            decoder.run(x, angles, kept, lengths, 1, 3),
            decoder.skip(x, angles, 1, 3),
        )

    moving = jnp.asarray([True, False, True])
    x, (mixed, mixed_fresh), (deep, deep_fresh), skipped = run(model, moving)
    np.testing.assert_array_equal(mixed[1], x[1])
    np.testing.assert_allclose(mixed[moving], deep[moving], rtol=0, atol=TOLERANCE)
    trees = (mixed_fresh, deep_fresh, skipped)
    for ours, computed, projected in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(ours[1], projected[1], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(ours[moving], computed[moving], rtol=0, atol=TOLERANCE)
    assert np.abs(np.asarray(deep_fresh[1][0] - skipped[1][0])).max() > 1e-2  # layers do differ from skipping


def test_padding_has_no_logits(tokens):
    """Ids that the tokenizer does not have are cut off; the others keep their logits."""
    plain = random_model(config("qwen2"), 1)
    padded = Model(config=config("qwen2", known_vocab_size=15), params=plain.params)
    assert padded.config.valid_outputs == 15
    logits = whole(padded, tokens % 15)[1]
    np.testing.assert_allclose(logits, whole(plain, tokens % 15)[1][..., :15], rtol=0, atol=TOLERANCE)


def test_a_draft_head_covers_its_own_rows(tokens):
    model = random_model(config("qwen2", head_vocab_size=5), 1)
    assert model.config.valid_outputs == 5
    assert whole(model, tokens)[1].shape == (3, 40, 5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("probes", [False, True])
def test_parameter_shapes_are_the_contract(family, probes):
    shapes = parameter_shapes(config(family, exit_probes=probes))
    model = random_model(config(family, exit_probes=probes))
    assert {path: array.shape for path, array in model.params.items()} == shapes
    assert shapes["embed.embedding"] == (19, 16)
    heads = 6 if family == "qwen3" else 4
    assert shapes["layers.0.attention.qkv.kernel"] == (16, (4 + 2 * 2) * heads)
    assert shapes["layers.2.mlp.gate_up.kernel"] == (16, 48)
    assert ("head.kernel" in shapes) == (family == "qwen2")
    assert ("layers.1.attention.qkv.bias" in shapes) == (family == "qwen2")
    assert ("layers.1.attention.q_norm.scale" in shapes) == (family == "qwen3")
    assert [path for path in shapes if path.startswith("exit_norms")] == ["exit_norms.0.scale", "exit_norms.1.scale"]
    assert len([path for path in shapes if path.startswith("exit_probes")]) == (4 if probes else 0)


def test_a_probe_is_a_relu_of_a_line():
    model = random_model(config("llama", exit_probes=True))
    params = {
        **model.params,
        "exit_probes.0.weight": jnp.arange(16.0),
        "exit_probes.0.bias": jnp.asarray(-2.0),
    }
    probe = Model(config=model.config, params=params).bind().exit_probes[0]
    np.testing.assert_allclose(probe(jnp.stack([jnp.ones(16), -jnp.ones(16)])), [118.0, 0.0])


def test_work_of_exits_ascends_to_one():
    for probes in (False, True):
        work = exit_work(config("llama", exit_probes=probes))
        assert list(work) == sorted(work)
        assert 0 < work[0] < work[1] < work[2] == 1
    # A probe is cheaper than the head, so early exits save more.
    big = {"vocab_size": 5000, "exits": (1, 3)}
    assert exit_work(config("llama", exit_probes=True, **big))[0] > 0.5
    assert exit_work(config("llama", **big))[0] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exits": (1, 2)}, r"exits \(1, 2\).*num_layers 3"),
        ({"exits": (2, 1, 3)}, r"exits \(2, 1, 3\)"),
        ({"exits": (0, 3)}, r"exits \(0, 3\)"),
        ({"num_heads": 3}, "num_heads 3 is not a multiple of num_kv_heads 2"),
        ({"head_dim": 5}, "head_dim 5"),
    ],
)
def test_shapes_that_cannot_run_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config("llama", **changes)


def test_without_a_cache_a_window_sees_itself_alone(model, tokens):
    expected, _, fresh = whole(model, tokens)
    hidden, _, own = forward(model, tokens, None, jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=TOLERANCE)
    for ours, wanted in zip(jax.tree.leaves(own), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE)
