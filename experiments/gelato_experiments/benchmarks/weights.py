"""What few bits cost in quality: perplexity and likeliest tokens of a model against its float32 weights."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gelato_jax.models import Model, allocate


def evaluate(
    reference: Model,
    models: dict[str, Model],
    texts: Sequence[Sequence[int]],
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, dict[str, float]]:
    """Read the same texts with every model.

    Args:
        reference: the model in float32.
        models: the same model in other precisions, by name.
        texts: token ids, all of one length of at least 2.
        progress: told `read`.

    Returns:
        Of every name, and of `float32` first: `perplexity`; its change against float32 in per cent and the standard
        error of that over the texts (`change`, `change_error`); `same`, the per cent of positions whose likeliest
        token is float32's; and `megabytes` of weights.
    """
    named = {"float32": reference, **models}
    losses: dict[str, list[float]] = {name: [] for name in named}
    same: dict[str, list[float]] = {name: [] for name in named}
    for number, text in enumerate(texts):
        progress("read", number, len(texts))
        tokens = jnp.asarray([text], jnp.int32)
        likeliest = None
        for name, model in named.items():
            loss, tops = jax.device_get(_read(model, tokens))
            likeliest = tops if likeliest is None else likeliest
            losses[name].append(float(loss))
            same[name].append(float(np.mean(tops == likeliest)))
    progress("read", len(texts), len(texts))
    return {name: _figures(losses, same, name, model) for name, model in named.items()}


@partial(jax.jit)
def _read(model: Model, tokens: Array) -> tuple[Array, Array]:
    """Mean negative log-likelihood of tokens `[1, T]` behind the first, and the likeliest ones `[T - 1]`."""
    decoder = model.bind()
    cache = allocate(decoder.config, 1, tokens.shape[1], decoder.cache_dtype)
    x, _ = decoder.forward(tokens[:, :-1], cache, jnp.zeros((1,), jnp.int32))
    scores = jax.nn.log_softmax(decoder.unembed(x)[0])
    return -jnp.take_along_axis(scores, tokens[0, 1:, None], axis=1).mean(), scores.argmax(axis=1)


def _figures(losses: dict[str, list[float]], same: dict[str, list[float]], name: str, model: Model) -> dict[str, float]:
    changes = np.array(losses[name]) - np.array(losses["float32"])
    error = changes.std(ddof=1) / len(changes) ** 0.5 if len(changes) > 1 else float("nan")
    return {
        "perplexity": float(np.exp(np.mean(losses[name]))),
        "change": 100 * float(np.expm1(changes.mean())),
        "change_error": 100 * float(error),
        "same": 100 * float(np.mean(same[name])),
        "megabytes": sum(array.nbytes for array in model.params.values()) / 1e6,
    }
