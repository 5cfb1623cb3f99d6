"""What a device and an edge say to each other, and what both know before they begin.

A message is a record with rows first; a field that a payload scheme does not send is None. `encode_*` and
`decode_*` of a payload turn one row of it into bytes and back.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from gelato_jax import keys
from gelato_jax.types import record, static


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabularies:
    """The sizes that messages are counted and packed by.

    Attributes:
        target: target ids V, which every id is coded over.
        draft: columns of q, Q.
        further: the last column of q stands for a repeated token, whose id travels beside q.
    """

    target: int
    draft: int
    further: bool = False

    @classmethod
    def whole(cls, size: int) -> "Vocabularies":
        """A draft that knows all of the target's ids."""
        return cls(target=size, draft=size)

    @property
    def id_bits(self) -> int:
        """Bits of one token id, ceil(log2 V)."""
        return (self.target - 1).bit_length()


@record
class DraftIds:
    """Which target ids the columns of q stand for; both ends know it from the session's start."""

    known: Array | None  # [U] int32 ids of the head's rows, ascending, none for a `Lookup`; None: all of the target's
    vocab_size: int = static()  # V
    further: bool = static(default=False)  # one more column, for a repeated token that the head lacks

    @property
    def sizes(self) -> Vocabularies:
        """The sizes that messages are packed by."""
        columns = self.vocab_size if self.known is None else self.known.shape[0] + self.further
        return Vocabularies(target=self.vocab_size, draft=columns, further=self.further)

    def columns(self, tokens: Array) -> Array:
        """Columns `[...]` of target ids `tokens [...]`; an id that the head lacks has the further column."""
        if self.known is None:
            return tokens
        found = jnp.searchsorted(self.known, tokens)
        named = jnp.append(self.known, -1)[found]  # a head may know no id at all
        return jnp.where(named == tokens, found, self.known.shape[0]) if self.further else found

    def names(self, repeated: Array) -> Array:
        """Target ids of q's columns, `[..., Q]`, where the further one stands for `repeated [...]`."""
        known = jnp.arange(self.vocab_size) if self.known is None else self.known
        known = jnp.broadcast_to(known, (*repeated.shape, known.shape[0]))
        return jnp.concatenate([known, repeated[..., None]], axis=-1) if self.further else known

    def spread(self, row: Array, repeated: Array | None) -> Array:
        """Log weights `[B, Q]` of q over all target ids, `[B, V]`; `repeated [B]` is the further column's id."""
        if self.known is None:
            return row
        everything = jnp.full((row.shape[0], self.vocab_size), -jnp.inf)
        size = self.known.shape[0]
        everything = everything.at[:, self.known].set(row[:, :size])
        if not self.further or repeated is None:
            return everything
        # The further column is -inf where the head has the token.
        return everything.at[jnp.arange(row.shape[0]), repeated].max(row[:, size])


@record
class Proposal:
    """What the device drafted, and the q that it drew from: all of it, whatever is sent."""

    tokens: Array  # [B, G] int32 target ids; beyond `length` meaningless, as in all fields
    length: Array  # [B] int32
    log_prob: Array  # [B, G] log q of each token
    log_weights: Array  # [B, G, Q] unnormalised log q
    repeated: Array  # [B, G] int32 target id of q's further column, where it has one

    def at(self, position: Array) -> tuple[Array, Array]:
        """The row of q `[B, Q]` at `position [B]`, and the id `[B]` of its further column; zeros where G is 0."""
        if self.tokens.shape[1] == 0:
            rows = self.length.shape[0]
            return jnp.zeros((rows, self.log_weights.shape[2])), jnp.zeros((rows,), jnp.int32)
        return row_at(self.log_weights, position), row_at(self.repeated, position)


@record
class Uplink:
    """Device to edge, once a round."""

    active: Array  # [B] bool whether the row sends a message at all
    tokens: Array  # [B, G] int32 drafted ids
    length: Array  # [B] int32 how many of them
    wanted: Array  # [B] int32 tokens that a row without drafts asks for, at least 1
    pending: Array | None = None  # [B] int32 the id that the device drew after the last round, -1 where it drew none
    log_prob: Array | None = None  # [B, G] float32 log q of each id
    log_weights: Array | None = None  # [B, G, Q] float32 log q up to a constant; -inf is not sent
    levels: Array | None = None  # [B, G, Q] int32 q as integers
    repeated: Array | None = None  # [B, G] int32 id of q's further column

    def answer(self, accepted: Array, next_token: Array) -> "Downlink":
        """An answer to it of one pass, without a fault. Arguments `[B]` as the fields of `Downlink`."""
        return Downlink(
            accepted=accepted,
            next_token=next_token,
            streamed=jnp.zeros_like(self.tokens),
            num_streamed=jnp.zeros_like(self.length),
            fault=jnp.zeros(self.length.shape, bool),
        )


@record
class Downlink:
    """Edge to device, the answer to an `Uplink`: accepted drafts or streamed tokens, and the token after them."""

    accepted: Array  # [B] int32 leading drafts that are accepted
    next_token: Array  # [B] int32 the token after them; meaningless where the device draws it
    streamed: Array  # [B, G] int32 the target's tokens ahead of it, where there were no drafts
    num_streamed: Array  # [B] int32 how many
    fault: Array  # [B] bool the target's logits are no numbers: nothing is accepted, and no token is drawn
    row: Array | None = None  # [B, V] float32 log p up to a constant, after the accepted drafts
    candidates: Array | None = None  # [B, M] int32 draws of p, after the accepted drafts
    candidate_prob: Array | None = None  # [B, M] float32 p of each


@record
class Resolution:
    """The token after the accepted drafts, as the device knows it in the end."""

    next_token: Array  # [B] int32
    asked: Array  # [B] bool whether the device had to ask for the target's row


@record
class RoundNoise:
    """The random numbers of one round, by row. Both ends derive them from the session's key."""

    key: Array  # [B, 2] random key of the row, see `keys`
    round: Array  # [B] int32 the row's own round
    position: Array  # [B] int32 absolute position of the round's first token
    greedy: Array  # [] bool one token of every row has all the probability: noise could change nothing

    def uniforms(self, use: int | Array, shape: tuple[int, ...]) -> Array:
        """Uniforms `[B, *shape]`, of this round and use alone."""
        return keys.round_uniforms(self.key, self.round, use, shape)

    def gumbel(self, window: int, vocab_size: int) -> Array:
        """Gumbel noise `[B, window, V]` by absolute position, the same whatever the round; none in greedy text."""
        shape = (self.position.shape[0], window, vocab_size)
        return lax.cond(
            self.greedy,
            lambda: jnp.zeros(shape, jnp.float32),
            lambda: keys.position_noise(self.key, self.position[:, None] + jnp.arange(window), vocab_size),
        )


def row_at(rows: Array, index: Array) -> Array:
    """`rows[b, index[b]]` of `rows [B, K, ...]` for `index [B]`; beyond the end, the last."""
    wide = index.reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.take_along_axis(rows, wide, axis=1, mode="clip")[:, 0]
