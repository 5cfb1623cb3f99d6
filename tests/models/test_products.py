"""Products and their gradients, and decoders with 8-bit weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.config import ModelConfig
from gelato_jax.models import Model, allocate, parameter_outlines, parameter_shapes, quantize, random_model, write
from gelato_jax.models.layers import product
from gelato_jax.testing import tiny_config

TOLERANCE = 1e-5  # float32 sums in another order, of numbers of size one


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, TOLERANCE), (jnp.bfloat16, 0.1)])
def test_gradients_of_a_product_are_those_of_the_plain_one(axis, dtype, tolerance):
    """To the rounding of 10 operands of size one; products are of the kernel's dtype, with float32 sums."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 5, 7), np.float32), rng.standard_normal((2, 5, 11), np.float32)
    plain = rng.standard_normal((7, 11), np.float32)
    kernel = jnp.asarray(plain if axis == 0 else plain.T, dtype)

    def loss(x, kernel):
        return (product(x, kernel, axis) * weight).sum()

    np.testing.assert_allclose(product(x, kernel, axis), x @ plain, rtol=0, atol=tolerance)
    kernel_gradient = np.einsum("bti,bto->io", x, weight)
    wanted = weight @ plain.T, kernel_gradient if axis == 0 else kernel_gradient.T
    gradients = jax.grad(loss, (0, 1))(x, kernel)
    assert [gradient.dtype for gradient in gradients] == [jnp.float32, dtype]
    for ours, theirs in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=0, atol=tolerance)
    equations = jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel).eqns
    dots = [equation for equation in equations if equation.primitive.name == "dot_general"]
    assert len(dots) == 3
    for dot in dots:
        assert [operand.aval.dtype for operand in dot.invars] == [dtype, dtype]
        assert dot.outvars[0].aval.dtype == jnp.float32


FEATURES = {
    "llama": {},
    "qwen2": {"qkv_bias": True, "head_vocab_size": 37},
    "qwen3": {"qk_norm": True, "head_dim": 6},
}


def config(family: str, **changes) -> ModelConfig:
    return tiny_config(family=family, exits=(1, 3), exit_probes=True, **FEATURES[family], **changes)


def floating(small: Model) -> Model:
    """The model that an 8-bit one stands for."""
    params = {}
    for path, array in small.params.items():
        if path.endswith("kernel"):
            rows = array * small.params[f"{path}_scale"][:, None]
            params[path] = rows if path == "head.kernel" else rows.T
        elif not path.endswith("kernel_scale"):
            params[path] = array
    return Model(config=dataclasses.replace(small.config, weight_format="float"), params=params)


@jax.jit
def logits_of(model: Model, tokens):
    decoder = model.bind()
    return decoder.unembed(decoder.forward(tokens, None, jnp.zeros(len(tokens), jnp.int32))[0])


@pytest.mark.parametrize("family", FEATURES)
def test_8_bit_weights_compute_what_they_stand_for(family):
    """Whole sequences, a window and one token of one row: each has a product of its own."""
    small = quantize(random_model(config(family), 7))
    tokens = np.random.default_rng(0).integers(0, small.config.vocab_size, (3, 50))
    for shown in (tokens, tokens[:1, :5], tokens[:1, :1]):
        # Activations are rounded to steps of 1/32,258 of a token's largest number.
        np.testing.assert_allclose(logits_of(small, shown), logits_of(floating(small), shown), rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", FEATURES)
def test_every_matrix_but_the_embedding_is_rounded_to_8_bits(family):
    full = random_model(config(family), 7)
    small = quantize(full)
    assert {path: array.shape for path, array in small.params.items()} == parameter_shapes(small.config)
    matrices = {path for path in full.params if path.endswith(".kernel")}
    for params in (small.params, random_model(small.config).params, parameter_outlines(small.config)):
        assert {path for path, array in params.items() if array.dtype == jnp.int8} == matrices
        assert {array.dtype for path, array in params.items() if path not in matrices} == {jnp.dtype("float32")}
    for path, array in floating(small).params.items():
        error = np.abs(np.asarray(array) - np.asarray(full.params[path]))
        assert error.max() <= (np.abs(full.params[path]).max() / 127 * 0.501 if path in matrices else 0)


def test_8_bit_weights_need_a_head_of_their_own():
    with pytest.raises(ValueError, match="weight_format 'int8' with tied_head True"):
        quantize(random_model(tiny_config(tied_head=True)))
    with pytest.raises(ValueError, match="weight_format is 'int8', cannot become 'int8'"):
        quantize(random_model(tiny_config(weight_format="int8")))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about the CPU's compiler")
def test_a_decoding_loop_widens_no_weights_ahead():
    """A loop of one row needs less memory, beside its caches, than one of its 13 int8 matrices."""
    size = 256
    shape = tiny_config(vocab_size=512, hidden_size=size, mlp_size=size, head_dim=size, weight_format="int8")

    @jax.jit
    def loop(model, kept, token):
        decoder = model.bind()

        def body(state):
            length, kept, token = state
            hidden, fresh = decoder.forward(token, kept, length)
            return length + 1, write(kept, fresh, length, after=hidden), decoder.unembed(hidden).argmax(-1)

        return jax.lax.while_loop(lambda state: state[0][0] < 4, body, (jnp.zeros(1, jnp.int32), kept, token))[2]

    kept = allocate(shape, 1, 16)
    outlines = Model(config=shape, params=parameter_outlines(shape))
    compiled = loop.lower(outlines, kept, jnp.zeros((1, 1), jnp.int32)).compile()
    caches = sum(array.nbytes for array in jax.tree.leaves(kept))
    assert compiled.memory_analysis().temp_size_in_bytes - caches < size * size
