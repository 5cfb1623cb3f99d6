"""The decode behind `gelato generate`: load, stream, watch, and stop where asked."""

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from gelato_jax.cli.clock import CompileClock
from gelato_jax.cli.screen import Figures, Screen
from gelato_jax.decoding import Generation, Pair, Stream
from gelato_jax.decoding.text import TextStream, finish_reason
from gelato_jax.types import Observation

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A decoded prompt with its wall-clock figures.

    Attributes:
        text: what was shown.
        end: why the text ends: `eos`, `length`, `stop` or `interrupted`.
        generation: ids of the text, as `TextStream.ids`, and modelled figures of all rounds.
        prompt_tokens: ids of the prompt, the chat template included.
        first_token_s: from the start of the command to the first token.
        wall_s: seconds in which rounds ran: neither the prefill nor the wait for programs.
        compile_s: seconds in which programs were traced, compiled or fetched from the cache.
        traffic: `remote.client.Traffic` where the target is on another machine.
        alone_from: token of the answer from which the draft went on alone, where the edge stayed away.
    """

    text: str
    end: str
    generation: Generation
    prompt_tokens: int
    first_token_s: float
    wall_s: float
    compile_s: float
    traffic: Any = None
    alone_from: int | None = None


def decode(
    pair: Pair, stream: Stream, screen: Screen, *, stops: tuple[str, ...], clock: CompileClock, began: float
) -> Answer:
    """Show a stream on a screen to its end.

    Args:
        pair: what decodes.
        stream: of one prompt, which is read.
        screen: shows the text.
        stops: the text ends before any of these.
        clock: of compilation.
        began: `time.perf_counter()` at the start of the command.

    Returns:
        The answer, also where Ctrl-C ended it.
    """
    first_token_s = time.perf_counter() - began
    stream.one_by_one = bool(stops)  # what comes behind a stop string is not computed
    text = TextStream(pair.tokenizer, stops)
    watch = _Watch(pair.draft.depths)
    with screen:
        screen.text(text.feed(stream.first[0].tolist()))
        interrupted = _rounds(stream, text, screen, watch)
        screen.text(text.finish())
    stream.close()
    # What the last round drafted after a stop string is no part of the answer.
    generation = dataclasses.replace(stream.generation(), tokens=[text.ids])
    return Answer(
        text=text.text,
        end="interrupted" if interrupted else finish_reason(text, pair.eos_ids),
        generation=generation,
        prompt_tokens=int(np.asarray(stream.prompt_length)[0]),
        first_token_s=first_token_s,
        wall_s=watch.wall_s,
        compile_s=clock.seconds,
        traffic=getattr(stream, "traffic", None),
        alone_from=getattr(stream, "alone_from", None),
    )


def _rounds(stream: Stream, text: TextStream, screen: Screen, watch: "_Watch") -> bool:
    """Show round after round; whether Ctrl-C ended them before the answer was at its end."""
    try:
        stream.wait()
    except KeyboardInterrupt:
        return True
    with _held_interrupts() as interrupted:
        began = time.perf_counter()
        for info in () if text.stopped else stream:
            screen.text(text.feed(info.ids[0, : info.tokens[0]].tolist()))
            screen.figures(watch.see(info, time.perf_counter() - began))
            if text.stopped or info.done[0]:
                break
            if interrupted.is_set():
                return True
    return False


class _Watch:
    """Running figures of the rounds seen so far."""

    def __init__(self, exits: tuple[int, ...]) -> None:
        self._exits = exits
        self._tokens = self._drafted = self._accepted = 0
        self._energy_j = 0.0
        self.wall_s = 0.0

    def see(self, info: Observation, wall_s: float) -> Figures:
        """Add a round that ended `wall_s` after the first began."""
        self.wall_s = wall_s
        self._tokens += int(info.tokens[0])
        drafted = int(info.drafted[0])
        self._drafted += drafted
        self._accepted += int(info.accepted[0])
        self._energy_j += float(info.energy_j[0])
        return Figures(
            tokens_per_s=self._tokens / wall_s,
            energy_per_token_j=self._energy_j / self._tokens,
            acceptance_rate=self._accepted / self._drafted if self._drafted else None,
            drafted=drafted,
            budget=int(info.budget[0]),
            depth=float(np.dot(info.exits[0], self._exits)) / drafted if drafted else None,
            layers=self._exits[-1],
            queue_j=float(info.queue_j[0]),
        )


def in_background(work: Callable[[], _T]) -> Future[_T]:
    """Begin work in a thread of its own, which the process waits for at its end; `result()` raises what it raised."""
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


@contextmanager
def _held_interrupts() -> Iterator[threading.Event]:
    """Note Ctrl-C instead of raising it: a round is short, and its state is donated until it returns.

    A second one is raised: an edge that does not answer is waited for much longer.
    """
    interrupted = threading.Event()

    def note(number: int, frame: Any) -> None:
        if interrupted.is_set():
            signal.default_int_handler(number, frame)
        interrupted.set()

    before: Any = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
