"""A corpus that the target wrote for its draft: conversations on the disk, with what the target thought of each token.

A folder of shards. A shard is one `.npz` of plain arrays (nothing is unpickled), written whole or
not at all; a killed writer loses at most the shard under way and goes on after the last one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gelato_jax.errors import GelatoError
from gelato_jax.files import atomic_write
from gelato_jax.models import Model
from gelato_jax.training.writing import Beginning, Frame, Writing, advance, begin, restart

_STEPS = 16  # tokens between two looks of the host at which rows are done
_REPEATS = 1000  # conversations that were there already, in a row: a target that has nothing new to say (assumed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """How a corpus is written. Frozen and small: it is stored beside the shards.

    Attributes:
        tokens: tokens to write, prefix and header not counted.
        seed: of every draw.
        rows: conversations written at once.
        slots: longest conversation, prefix included.
        longest_user: most tokens of a user turn beyond its opening.
        longest_answer: most tokens of an answer.
        temperatures: of answers, one drawn for each.
        opened: share of the user turns that begin with one of `openings.txt`; the others begin as the target likes.
        num_recorded: likeliest tokens recorded at every position.
        shard_tokens: tokens of a shard: what a kill can cost.
    """

    tokens: int = 1_500_000
    seed: int = 0
    rows: int = 128
    slots: int = 256
    longest_user: int = 64
    longest_answer: int = 160
    temperatures: tuple[float, ...] = (0.0, 0.0, 0.0, 0.7, 1.0, 1.0)
    opened: float = 0.5
    num_recorded: int = 48
    shard_tokens: int = 50_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """One conversation, after the frame's prefix.

    Attributes:
        tokens: [n] ids: user turn, header, answer.
        answer_start: index in `tokens` of the answer's first token.
        temperature: of the answer.
        top_ids: [n, k] likeliest ids ahead of each token.
        top_log_probs: [n, k] their log-probabilities, nats.
    """

    tokens: np.ndarray
    answer_start: int
    temperature: float
    top_ids: np.ndarray
    top_log_probs: np.ndarray


def openings() -> list[str]:
    """First words of user turns, so that a corpus holds tasks of many kinds."""
    return resources.files("gelato_jax.training").joinpath("openings.txt").read_text("utf-8").split("\n")[:-1]


def write_corpus(
    model: Model,
    frame: Frame,
    folder: Path,
    settings: CorpusSettings,
    opening_ids: Sequence[Sequence[int]] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Let the target write until the folder holds `settings.tokens` tokens.

    Args:
        model: the target; bfloat16 weights write about as well as float32 ones and, in batches, faster.
        frame: of its conversations.
        folder: of the shards; what it holds already counts.
        settings: how to write.
        opening_ids: beginnings of user turns, as ids.
        progress: told tokens written and wanted.

    Raises:
        GelatoError: `settings.slots` leave no room for prefix, opening, header and an answer, or the target only
            repeats what it has written.

    A killed writer goes on after its last whole shard with draws of its own: the same seed gives the
    same corpus only where no writer was killed.
    """
    check_room(settings, frame, opening_ids)
    folder.mkdir(parents=True, exist_ok=True)
    shards = shard_paths(folder)
    seen: set[int] = set()
    written = 0
    for conversation in read_corpus(folder):
        seen.add(_identity(conversation))
        written += len(conversation.tokens)
    random = np.random.default_rng((settings.seed, len(shards)))
    state = begin(model, frame, settings.rows, settings.slots, int(random.integers(2**31)))
    waiting: list[Conversation] = []
    repeats = 0
    progress(written, settings.tokens)
    while written < settings.tokens:
        state = restart(state, _beginnings(settings, frame, opening_ids, random), frame)
        state = advance(state, model, frame, steps=_STEPS)
        for conversation in _finished(state, frame):
            if (identity := _identity(conversation)) in seen:
                repeats += 1
                continue
            repeats = 0
            seen.add(identity)
            waiting.append(conversation)
            written += len(conversation.tokens)
        progress(written, settings.tokens)
        if repeats > _REPEATS:
            raise GelatoError(
                f"the target's last {repeats} conversations were there already, at {written} of {settings.tokens} "
                "tokens: take longer user turns, higher temperatures, or fewer tokens"
            )
        if sum(len(c.tokens) for c in waiting) >= settings.shard_tokens or written >= settings.tokens:
            write_shard(shard_path(folder, len(shards)), waiting)
            shards, waiting = shard_paths(folder), []


def check_room(settings: CorpusSettings, frame: Frame, opening_ids: Sequence[Sequence[int]]) -> None:
    """Refuse settings whose `slots` leave no room for prefix, opening, header and an answer."""
    given = frame.prefix.shape[0] + max(map(len, opening_ids), default=0)
    needed = given + frame.header.shape[0] + 2  # a token of the user turn, one of the answer
    if settings.slots < needed:
        raise GelatoError(
            f"slots is {settings.slots}, must be at least {needed}: prefix, opening, header and two tokens"
        )


def _beginnings(
    settings: CorpusSettings, frame: Frame, opening_ids: Sequence[Sequence[int]], random: np.random.Generator
) -> Beginning:
    """A beginning for every row; those of rows that are not done go unused."""
    rows, prefix = settings.rows, np.asarray(frame.prefix).tolist()
    tokens, given = np.zeros((rows, settings.slots), np.int32), np.zeros(rows, np.int32)
    for row in range(rows):
        opened = len(opening_ids) > 0 and random.random() < settings.opened
        ids = prefix + (list(opening_ids[int(random.integers(len(opening_ids)))]) if opened else [])
        tokens[row, : len(ids)], given[row] = ids, len(ids)
    longest = settings.longest_user
    user_end = given + random.integers(longest // 4, longest + 1, rows).astype(np.int32)
    last = settings.slots - frame.header.shape[0] - 1  # so that an answer has a slot
    return Beginning(
        tokens=jnp.asarray(tokens),
        given=jnp.asarray(given),
        user_end=jnp.asarray(np.minimum(user_end, last)),
        answer_limit=jnp.full(rows, settings.longest_answer, jnp.int32),
        temperature=jnp.asarray(random.choice(settings.temperatures, rows).astype(np.float32)),
    )


def _finished(state: Writing, frame: Frame) -> Iterator[Conversation]:
    """Conversations of the rows that are done."""
    rows = np.flatnonzero(np.asarray(state.done))
    if not rows.size:
        return
    prefix_length = frame.prefix.shape[0]
    tokens, length, start = np.asarray(state.tokens), np.asarray(state.length), np.asarray(state.answer_start)
    top_ids, top_log_probs = np.asarray(state.top_ids), np.asarray(state.top_log_probs)
    temperature = np.asarray(state.temperature)
    dtype = id_type(int(top_ids.max()))
    for row in rows:
        kept = slice(prefix_length, int(length[row]))
        yield Conversation(
            tokens=tokens[row, kept].astype(dtype),
            answer_start=int(start[row]) - prefix_length,
            temperature=float(temperature[row]),
            top_ids=top_ids[row, kept].astype(dtype),
            top_log_probs=top_log_probs[row, kept].astype(np.float16),
        )


def id_type(highest: int) -> type[np.unsignedinteger]:
    """The smaller type that holds ids up to `highest`."""
    return np.uint16 if highest < 2**16 else np.uint32


def _identity(conversation: Conversation) -> int:
    """Equal for conversations with the same user turn and, so far as 32 tokens tell, the same answer."""
    return hash(conversation.tokens[: conversation.answer_start + 32].astype(np.uint32).tobytes())


def shard_paths(folder: Path) -> list[Path]:
    """Whole shards of a folder, in order."""
    return sorted(folder.glob("shard-*.npz"))


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}.npz"


def write_shard(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write a shard beside its place, then move it there."""
    arrays = {
        "lengths": np.array([len(c.tokens) for c in conversations], np.int32),
        "answer_start": np.array([c.answer_start for c in conversations], np.int32),
        "temperature": np.array([c.temperature for c in conversations], np.float32),
        "tokens": np.concatenate([c.tokens for c in conversations]),
        "top_ids": np.concatenate([c.top_ids for c in conversations]),
        "top_log_probs": np.concatenate([c.top_log_probs for c in conversations]),
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def read_shard(path: Path) -> Iterator[Conversation]:
    """Conversations of a shard."""
    with np.load(path, allow_pickle=False) as arrays:
        shard = {name: arrays[name] for name in arrays.files}
    ends = np.cumsum(shard["lengths"])
    for index, (length, end) in enumerate(zip(shard["lengths"], ends, strict=True)):
        span = slice(end - length, end)
        yield Conversation(
            tokens=shard["tokens"][span],
            answer_start=int(shard["answer_start"][index]),
            temperature=float(shard["temperature"][index]),
            top_ids=shard["top_ids"][span],
            top_log_probs=shard["top_log_probs"][span],
        )


def read_corpus(folder: Path) -> Iterator[Conversation]:
    """Conversations of a folder, in the order written."""
    for path in shard_paths(folder):
        yield from read_shard(path)
