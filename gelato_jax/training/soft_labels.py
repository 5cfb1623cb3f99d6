"""What a target thinks of text that is there already: its likeliest tokens ahead of each token, by whole rows."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from gelato_jax.models import Model
from gelato_jax.training.corpus import Conversation, id_type, read_corpus, shard_path, shard_paths, write_shard
from gelato_jax.training.writing import Frame, likeliest

_ROWS = 16  # of a forward pass
_MULTIPLE = 64  # lengths of rows are multiples of this: each is compiled once


def label(model: Model, conversations: Sequence[Conversation], frame: Frame) -> Iterator[Conversation]:
    """Fill in `top_ids` and `top_log_probs`, in the order given, by a teacher-forced pass of the target.

    Args:
        model: the target.
        conversations: their ids and temperatures.
        frame: its prefix stands ahead of each, its `num_recorded` tokens are kept.
    """
    prefix = np.asarray(frame.prefix)
    for at in range(0, len(conversations), _ROWS):
        chosen = conversations[at : at + _ROWS]
        longest = len(prefix) + max(len(c.tokens) for c in chosen)
        tokens = np.zeros((_ROWS, -longest % _MULTIPLE + longest), np.int32)
        for row, conversation in enumerate(chosen):
            tokens[row, : len(prefix) + len(conversation.tokens)] = np.concatenate([prefix, conversation.tokens])
        ids, log_probs = jax.device_get(_look(model, tokens, prefix_length=len(prefix), count=frame.num_recorded))
        for conversation, row_ids, row_log_probs in zip(chosen, ids, log_probs, strict=False):
            kept = slice(0, len(conversation.tokens))
            yield dataclasses.replace(
                conversation,
                top_ids=row_ids[kept].astype(id_type(int(ids.max()))),
                top_log_probs=row_log_probs[kept].astype(np.float16),
            )


@partial(jax.jit, static_argnames=("prefix_length", "count"))
def _look(model: Model, tokens: Array, *, prefix_length: int, count: int) -> tuple[Array, Array]:
    """Likeliest ids and their log-probabilities ahead of every token after the prefix of P, `[R, T - P, count]`."""
    decoder = model.bind()
    x, _ = decoder.forward(tokens, None, jnp.zeros((tokens.shape[0],), jnp.int32))

    def look(states: Array) -> tuple[Array, Array]:  # a row: the logits of all rows never exist together
        logits = decoder.unembed(states)
        values, ids = likeliest(logits, count)
        return ids, values - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

    return lax.map(look, x[:, prefix_length - 1 : -1])


def label_corpus(
    model: Model,
    conversations: Sequence[Conversation],
    frame: Frame,
    folder: Path,
    *,
    shard_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Record conversations into a folder of shards; what it holds already is not recorded again.

    Args:
        model: the target.
        conversations: all of them, in the order of the folder.
        frame: of its conversations.
        folder: of the shards.
        shard_tokens: tokens of a shard: what a kill can cost.
        progress: told tokens recorded and tokens in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(c.tokens) for c in conversations)
    there = [len(c.tokens) for c in read_corpus(folder)]
    done, number = sum(there), len(shard_paths(folder))
    recorded = label(model, conversations[len(there) :], frame)
    progress(done, total)
    waiting: list[Conversation] = []
    while some := list(islice(recorded, _ROWS)):
        waiting += some
        done += sum(len(c.tokens) for c in some)
        if sum(len(c.tokens) for c in waiting) >= shard_tokens or done == total:
            write_shard(shard_path(folder, number), waiting)
            waiting, number = [], number + 1
        progress(done, total)
