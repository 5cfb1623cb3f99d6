"""Requests through a pair, round by round: one after the other, with one energy queue, or several at once."""

import dataclasses
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from gelato_jax import control
from gelato_jax.decoding import LONGEST_STREAM, DecodeSettings, Pair, Stream
from gelato_jax.decoding.records import Session
from gelato_jax.decoding.report import report
from gelato_jax.decoding.text import TextStream, finish_reason
from gelato_jax.serving.requests import Ask, BadRequest

OpenStream = Callable[..., Stream]
"""`gelato_jax.stream` of a pair, or `remote.device.stream`; called with ids, `settings`, `session` or `controller`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What was added to the text.

    Attributes:
        is_round: whether by a round; the first token comes with the prompt.
        accepted: text of the drafts that were accepted.
        decided: text of the token behind them, which is the target's.
        drafted: tokens that were drafted.
        accepted_tokens: of them.
        queue_j: energy queue behind the round.
        energy_j: that the round cost the device, modelled.
    """

    is_round: bool = False
    accepted: str = ""
    decided: str = ""
    drafted: int = 0
    accepted_tokens: int = 0
    queue_j: float = 0.0
    energy_j: float = 0.0

    @property
    def text(self) -> str:
        """All of it."""
        return self.accepted + self.decided


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of an answer.

    Attributes:
        reason: `stop` or `length`, as OpenAI has it.
        prompt_tokens: ids of the prompt, the chat template included.
        new_tokens: ids of the answer.
        drafted: of all rounds.
        accepted: of them.
        first_token_s: from the request's turn to its first token, by the clock.
        wall_s: from there to the last token.
        figures: modelled and measured figures, ready for JSON.
    """

    reason: str
    prompt_tokens: int
    new_tokens: int
    drafted: int
    accepted: int
    first_token_s: float
    wall_s: float
    figures: dict[str, Any]


class Engine:
    """Decodes requests. Each begins with the queue and the estimates that one before it left.

    Several threads may decode at once where `stream` lets them. A request then takes up what one before it left and
    nobody else took up: there are as many queues as requests were under way, and a cap would be kept by each.

    Args:
        pair: draft, target, tokenizer.
        settings: how much is drafted; lengths and distribution are each request's.
        stream: opens a stream of one prompt under the server's policy.
    """

    def __init__(self, pair: Pair, settings: DecodeSettings, stream: OpenStream) -> None:
        """With an energy queue that is empty."""
        self._pair, self._settings, self._stream = pair, settings, stream
        self._left: list[Session] = []

    def warm(self) -> None:
        """Compile what most requests need."""
        for _ in self.decode(self.prepare(Ask(kind="text", prompt="a", max_new_tokens=2, temperature=0.0))):
            pass
        self._left.clear()

    def prepare(self, ask: Ask) -> "Prepared":
        """The ids and settings of a request.

        Raises:
            BadRequest: it is too long, or cannot be encoded.
        """
        tokenizer = self._pair.tokenizer
        try:
            if ask.kind == "chat":
                ids = tokenizer.chat_prompt(ask.messages)  # type: ignore[arg-type]
            else:
                ids = tokenizer.encode(ask.prompt) if isinstance(ask.prompt, str) else ask.prompt
        except ValueError as error:
            raise BadRequest(str(error), "messages" if ask.kind == "chat" else "prompt") from None
        config = self._pair.target.config
        if max(ids) >= config.valid_outputs:
            raise BadRequest(f"id {max(ids)} is none of the model's 0..{config.valid_outputs - 1}", "prompt")
        room = config.max_positions - len(ids)
        wanted = min(self._settings.max_new_tokens, room) if ask.max_new_tokens is None else ask.max_new_tokens
        if room < 1 or wanted > room:
            raise BadRequest(
                f"the prompt has {len(ids)} tokens, with {max(wanted, 1)} new ones more than the model's "
                f"{config.max_positions}: shorten it, or ask for fewer",
                "messages" if ask.kind == "chat" else "prompt",
                code="context_length_exceeded",
            )
        settings = dataclasses.replace(
            self._settings,
            max_new_tokens=wanted,
            stream_length=self._settings.stream_length if ask.speculative else LONGEST_STREAM,
            temperature=ask.temperature,
            top_p=ask.top_p,
            top_k=ask.top_k,
            seed=ask.seed,
        )
        return Prepared(ids=ids, settings=settings, stops=ask.stops, speculative=ask.speculative)

    def decode(self, request: "Prepared") -> Generator[Piece | Finished, None, None]:
        """Decode a request: pieces, then how it ended. Closed early, what was decoded still counts in the queue.

        Raises:
            GelatoError: an edge does not answer, or a model's numbers are none.
        """
        began = time.perf_counter()
        # Without drafts the rules keep another state.
        chosen = {"session": self._take_up()} if request.speculative else {"controller": control.static(0)}
        stream = self._stream(request.ids, settings=request.settings, **chosen)
        stream.one_by_one = bool(request.stops)
        text = TextStream(self._pair.tokenizer, request.stops)
        first_token_s = time.perf_counter() - began
        try:
            yield Piece(decided=text.feed(stream.first[0].tolist()))
            for seen in () if text.stopped else stream:
                accepted, ids = int(seen.accepted[0]), seen.ids[0, : seen.tokens[0]].tolist()
                yield Piece(
                    is_round=True,
                    accepted=text.feed(ids[:accepted]),
                    decided=text.feed(ids[accepted:]),
                    drafted=int(seen.drafted[0]),
                    accepted_tokens=accepted,
                    queue_j=float(seen.queue_j[0]),
                    energy_j=float(seen.energy_j[0]),
                )
                if text.stopped:
                    break
            yield Piece(decided=text.finish())
        finally:
            stream.close()
            generation = stream.generation()
            if request.speculative:
                self._left.append(generation.session)
        wall_s = time.perf_counter() - began - first_token_s
        modelled = report(dataclasses.replace(generation, tokens=[text.ids]))
        yield Finished(
            reason="length" if finish_reason(text, self._pair.eos_ids) == "length" else "stop",
            prompt_tokens=int(np.asarray(stream.prompt_length)[0]),
            new_tokens=len(text.ids),
            drafted=modelled["drafted"],
            accepted=modelled["accepted"],
            first_token_s=first_token_s,
            wall_s=wall_s,
            figures={
                "measured": {
                    "first_token_s": first_token_s,
                    "tokens_per_s": (len(text.ids) - 1) / wall_s if len(text.ids) > 1 else None,
                    "draft_alone_from": getattr(stream, "alone_from", None),
                },
                "modelled": modelled,
            },
        )

    def _take_up(self) -> Session | None:
        try:
            return self._left.pop()
        except IndexError:
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that can be decoded."""

    ids: list[int]
    settings: DecodeSettings
    stops: tuple[str, ...]
    speculative: bool
