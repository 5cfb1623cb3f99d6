"""A draft before training is the target, cut."""

import jax.numpy as jnp
import numpy as np
import pytest

from gelato_jax.errors import GelatoError
from gelato_jax.models import parameter_shapes
from gelato_jax.training.corpus import Conversation
from gelato_jax.training.warm_start import DraftShape, default_shape, frequent_ids, warm_start


def conversation(user, answer) -> Conversation:
    tokens = np.array([*user, *answer], np.uint16)
    none = np.zeros((len(tokens), 0))
    return Conversation(tokens=tokens, answer_start=len(user), temperature=0.0, top_ids=none, top_log_probs=none)


def logits(model, tokens):
    decoder = model.bind()
    x, _ = decoder.forward(tokens, None, jnp.zeros((tokens.shape[0],), jnp.int32))
    return np.asarray(decoder.unembed(x))


def test_all_layers_and_all_ids_are_the_target(target):
    draft = warm_start(target, DraftShape(layers=(0, 1, 2, 3), exits=(1, 4), vocabulary=61), np.arange(61))
    tokens = jnp.arange(20).reshape(2, 10)
    np.testing.assert_allclose(logits(draft, tokens), logits(target, tokens), rtol=1e-6, atol=1e-6)


def test_layers_head_and_exits_are_taken_from_the_target(target):
    vocabulary = np.array([3, 7, 60])
    draft = warm_start(target, DraftShape(layers=(0, 3), exits=(1, 2), vocabulary=3), vocabulary)
    assert {path: array.shape for path, array in draft.params.items()} == parameter_shapes(draft.config)
    np.testing.assert_array_equal(draft.params["head.kernel"], target.params["head.kernel"][vocabulary])
    np.testing.assert_array_equal(draft.params["exit_norms.0.scale"], target.params["norm.scale"])
    for path, array in draft.params.items():
        if path.startswith("layers.1."):
            np.testing.assert_array_equal(array, target.params[path.replace("layers.1.", "layers.3.")])


def test_the_default_shape_is_that_of_the_default_target():
    assert default_shape(30) == DraftShape()
    assert default_shape(4) == DraftShape(layers=(0, 1, 2, 3), exits=(2, 4))
    assert default_shape(1) == DraftShape(layers=(0,), exits=(1,))
    assert default_shape(3).layers == (0, 2)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (DraftShape(layers=(0, 4), exits=(2,)), "must lie in 0..3"),
        (DraftShape(layers=(), exits=(0,)), "must lie in 0..3"),
        (DraftShape(layers=(0, 1), exits=(1,)), "end at 2"),
        (DraftShape(layers=(0, 1), exits=(0, 2)), "ascend from 1"),
        (DraftShape(layers=(0, 1), exits=(2, 1)), "ascend from 1"),
        (DraftShape(layers=(0, 1), exits=()), "end at 2"),
    ],
)
def test_shapes_that_cannot_be_are_told(target, shape, words):
    with pytest.raises(GelatoError, match=words):
        warm_start(target, shape, np.arange(5))


def test_frequent_ids_count_answers_and_keep_the_ends():
    corpus = [conversation([1, 1, 1, 1], [5, 5, 5, 9]), conversation([1], [9, 9, 2, 5])]
    np.testing.assert_array_equal(frequent_ids(corpus, 2), [5, 9])
    np.testing.assert_array_equal(frequent_ids(corpus, 2, always=(60,)), [5, 60])
    np.testing.assert_array_equal(frequent_ids(corpus, 9, always=(60, 5)), [2, 5, 9, 60])
