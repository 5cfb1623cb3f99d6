"""From conversations to training batches: rows of like length, a fixed number of tokens in each batch."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jax import Array

from gelato_jax.errors import GelatoError
from gelato_jax.training.corpus import Conversation
from gelato_jax.types import record

_LENGTHS = (128, 160, 192, 224, 256, 384, 512, 768, 1024)  # rows are padded to one of these: each is compiled once
LEARNED_SHARE = 0.625
"""Positions of a padded row that heads run at: about as many as answers have tokens."""


@record
class Batch:
    """Token rows, and what the target thought ahead of some of their tokens.

    A learned position i of a row is fed token i and learns the target's distribution of token i + 1.
    Heads run at these positions alone.
    """

    tokens: Array  # [R, T] int32
    learned: Array  # [R, P] int32 positions
    weight: Array  # [R, P] of the position's loss; 0 where a row has fewer
    greedy: Array  # [R, P] bool: in an answer that the target wrote greedily
    top_index: Array  # [R, P, k] int32 rows of the draft's head, U where the head lacks the token
    top_log_prob: Array  # [R, P, k]


class Batches:
    """An endless, reproducible stream of batches.

    Args:
        conversations: the corpus.
        prefix: `[P]` ids ahead of each conversation.
        vocabulary: `[U]` the draft's ids, ascending.
        tokens_per_batch: padding included.
        user_weight: weight of a user turn's tokens; an answer's is 1.
        multiple: rows of a batch are a multiple of this (the devices that share it).
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        prefix: np.ndarray,
        vocabulary: np.ndarray,
        *,
        tokens_per_batch: int,
        user_weight: float = 0.2,
        multiple: int = 1,
    ) -> None:
        """Keep the conversations; batches are put together as they are asked for."""
        self._conversations = conversations
        self._prefix, self._user_weight = prefix, user_weight
        self._tokens_per_batch, self._multiple = tokens_per_batch, multiple
        highest = max(int(vocabulary[-1]), max(int(c.top_ids.max()) for c in conversations))
        self._row_of_id = np.full(highest + 1, len(vocabulary), np.int32)
        self._row_of_id[vocabulary] = np.arange(len(vocabulary))

    @property
    def tokens(self) -> int:
        """Tokens of the corpus, prefixes not counted."""
        return sum(len(c.tokens) for c in self._conversations)

    def shuffled(self, seed: int, skip: int = 0) -> Iterator[Batch]:
        """Batches for ever, epoch after epoch, each in an order of its own; the first `skip` are not put together."""
        for epoch in itertools.count():
            for index, members in enumerate(self._epoch(seed, epoch)):
                if skip > 0:
                    skip -= 1
                else:
                    yield self._batch(members, len(members), np.random.default_rng((seed, epoch, index)))

    def batches_per_epoch(self, seed: int) -> int:
        """Batches of an epoch.

        Raises:
            ValueError: no padded length has enough conversations for a batch.
        """
        count = len(self._epoch(seed, 0))
        if not count:
            raise GelatoError(
                f"{len(self._conversations)} conversations do not fill a batch of {self._tokens_per_batch} tokens: "
                "take a larger corpus, or fewer tokens per batch"
            )
        return count

    def once(self) -> Iterator[Batch]:
        """Every conversation once, in order; the last batch of each length is filled up with weightless rows."""
        sizes = np.array([self._padded(c) for c in self._conversations])
        for size in np.unique(sizes):
            same, rows = np.flatnonzero(sizes == size), self._rows(int(size))
            for at in range(0, len(same), rows):
                yield self._batch(same[at : at + rows], rows)

    def _epoch(self, seed: int, epoch: int) -> list[np.ndarray]:
        """Members of each batch of an epoch: rows of one padded length, a batch's worth of them."""
        random = np.random.default_rng((seed, epoch))
        order = random.permutation(len(self._conversations))
        sizes = np.array([self._padded(self._conversations[index]) for index in order])
        members: list[np.ndarray] = []
        for size in np.unique(sizes):
            same, rows = order[sizes == size], self._rows(int(size))
            # A last batch that falls short is left to another epoch's order.
            members += [same[at : at + rows] for at in range(0, len(same) - rows + 1, rows)]
        return [members[index] for index in random.permutation(len(members))]

    def _padded(self, conversation: Conversation) -> int:
        length = len(self._prefix) + len(conversation.tokens)
        if length > _LENGTHS[-1]:
            raise GelatoError(f"a conversation has {length} tokens with its prefix, must have at most {_LENGTHS[-1]}")
        return next(size for size in _LENGTHS if size >= length)

    def _rows(self, size: int) -> int:
        return max(1, self._tokens_per_batch // size // self._multiple) * self._multiple

    def _batch(self, members: np.ndarray, rows: int, random: np.random.Generator | None = None) -> Batch:
        chosen = [self._conversations[index] for index in members]
        size, prefix_length = self._padded(chosen[0]), len(self._prefix)
        positions, kept = round(size * LEARNED_SHARE), chosen[0].top_ids.shape[1]
        tokens = np.zeros((rows, size), np.int32)
        learned = np.zeros((rows, positions), np.int32)
        weight = np.zeros((rows, positions), np.float32)
        greedy = np.zeros((rows, positions), bool)
        top_index = np.zeros((rows, positions, kept), np.int32)
        top_log_prob = np.full((rows, positions, kept), -1e30, np.float32)
        for row, conversation in enumerate(chosen):
            tokens[row, : prefix_length + len(conversation.tokens)] = np.concatenate(
                [self._prefix, conversation.tokens]
            )
            taught = self._taught(conversation, positions, random)
            span = slice(0, len(taught))
            learned[row, span] = taught + prefix_length - 1  # position i learns token i + 1
            weight[row, span] = np.where(taught < conversation.answer_start, self._user_weight, 1.0)
            greedy[row, span] = (taught >= conversation.answer_start) & (conversation.temperature == 0)
            top_index[row, span] = self._row_of_id[conversation.top_ids[taught]]
            top_log_prob[row, span] = conversation.top_log_probs[taught]
        arrays = (tokens, learned, weight, greedy, top_index, top_log_prob)
        names = ("tokens", "learned", "weight", "greedy", "top_index", "top_log_prob")
        return Batch(**dict(zip(names, arrays, strict=True)))  # type: ignore[arg-type]

    def _taught(self, conversation: Conversation, positions: int, random: np.random.Generator | None) -> np.ndarray:
        """Indices of the tokens to learn: the answer's, some at random if there are too many, then the user's."""
        answer = np.arange(conversation.answer_start, len(conversation.tokens))
        if len(answer) > positions:
            return np.sort(random.choice(answer, positions, replace=False)) if random else answer[:positions]
        user = np.arange(conversation.answer_start)[::-1][: positions - len(answer)]
        return np.concatenate([user[::-1], answer])
