"""A draft before training: some of the target's layers, and its head cut to frequent tokens."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from gelato_jax.errors import GelatoError
from gelato_jax.models import Model
from gelato_jax.training.corpus import Conversation


@dataclasses.dataclass(frozen=True, kw_only=True)
class DraftShape:
    """What a draft is made of.

    Attributes:
        layers: the target's layers that its layers start from, in order.
        exits: layer counts after which it may predict, ascending; the last is the number of layers.
        vocabulary: rows of its head, the ids most frequent in the corpus.
    """

    layers: tuple[int, ...] = (0, 1, 2, 27, 28, 29)
    exits: tuple[int, ...] = (3, 6)
    vocabulary: int = 8192


def default_shape(num_layers: int, vocabulary: int = DraftShape.vocabulary) -> DraftShape:
    """The shape for a target of `num_layers` layers: its first three and its last three, an exit after either half.

    A target of fewer layers gives as many as it has.
    """
    half = max(1, min(3, num_layers // 2))
    layers = tuple(sorted({*range(half), *range(num_layers - half, num_layers)}))
    return DraftShape(layers=layers, exits=tuple(sorted({half, len(layers)})), vocabulary=vocabulary)


def check_shape(shape: DraftShape, num_layers: int) -> None:
    """Refuse a shape that a target of `num_layers` layers cannot give.

    Raises:
        GelatoError: a layer that the target does not have, or exits that do not ascend to the last layer.
    """
    if not shape.layers or not all(0 <= layer < num_layers for layer in shape.layers):
        raise GelatoError(f"layers {shape.layers} must lie in 0..{num_layers - 1}, the target's layers")
    deepest = len(shape.layers)
    if sorted(set(shape.exits)) != list(shape.exits) or shape.exits[-1:] != (deepest,) or shape.exits[0] < 1:
        raise GelatoError(f"exits {shape.exits} must ascend from 1 and end at {deepest}, the draft's layers")


def warm_start(target: Model, shape: DraftShape, vocabulary: np.ndarray) -> Model:
    """A draft of a shape, float32, its weights the target's.

    An early exit starts with the target's final norm, its probe at zero.

    Args:
        target: the model to draft for.
        shape: layers and exits.
        vocabulary: `[U]` ids of the head's rows, ascending.

    Raises:
        GelatoError: a layer that the target does not have, or exits that do not ascend to the last layer.
    """
    check_shape(shape, target.config.num_layers)
    early = len(shape.exits) - 1
    config = dataclasses.replace(
        target.config,
        num_layers=len(shape.layers),
        exits=shape.exits,
        exit_probes=early > 0,
        tied_head=False,
        head_vocab_size=len(vocabulary),
        known_vocab_size=None,
    )
    params = {path: array for path, array in target.params.items() if path.startswith(("embed.", "norm."))}
    for index, layer in enumerate(shape.layers):
        start = f"layers.{layer}."
        params |= {
            f"layers.{index}.{path.removeprefix(start)}": array
            for path, array in target.params.items()
            if path.startswith(start)
        }
    for index in range(early):
        params[f"exit_norms.{index}.scale"] = target.params["norm.scale"]
        params[f"exit_probes.{index}.weight"] = jnp.zeros(config.hidden_size)
        params[f"exit_probes.{index}.bias"] = jnp.zeros(())
    head = target.params["embed.embedding" if target.config.tied_head else "head.kernel"]
    params["head.kernel"] = head[jnp.asarray(vocabulary)]
    # Copies: training gives its weights away, step by step.
    return Model(config=config, params={path: jnp.array(array, jnp.float32) for path, array in params.items()})


def frequent_ids(conversations: Iterable[Conversation], size: int, always: Sequence[int] = ()) -> np.ndarray:
    """The `size` ids most frequent in the answers, ascending, `[size]` int32 (fewer if fewer occur).

    Args:
        conversations: a corpus.
        size: ids to keep.
        always: ids to keep whatever their count: those that end an answer.
    """
    counts: Counter[int] = Counter()
    for conversation in conversations:
        counts.update(conversation.tokens[conversation.answer_start :].tolist())
    chosen = list(always) + [token for token, _ in counts.most_common() if token not in set(always)]
    return np.sort(np.array(chosen[:size], np.int32))
