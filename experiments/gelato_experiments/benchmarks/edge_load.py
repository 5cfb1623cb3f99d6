"""`python -m gelato_experiments.benchmarks.edge_load`: one edge under more and more devices, over real sockets.

Devices know the target's greedy answers and draft from them, each token right with a given chance, so that they cost
next to nothing and the edge is what is measured. Every answer is compared with the target's own.
"""

import dataclasses
import itertools
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import arg

import gelato_jax as gelato
from gelato_jax import payloads
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import DraftIds, Uplink
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.edge import serve
from gelato_jax.remote.sessions import Sessions
from gelato_jax.remote.wire import SESSION_BYTES, describe_payload

PAYLOAD = payloads.seeded()
"""Ids alone travel: what a device sends costs it nothing to make."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A prompt and the target's greedy answer, ids."""

    prompt: list[int]
    answer: list[int]


class Device(threading.Thread):
    """Asks for one text after another, until it is told to stop.

    Args:
        address: of the edge.
        texts: in the order in which they are asked for.
        vocabulary: the tokenizer's fingerprint.
        ids: of the target.
        drafts: G; 0 has the target stream.
        chance: that a draft is right, after right ones.
        seed: of the drafts.
    """

    def __init__(
        self, address: str, texts: Sequence[Text], vocabulary: str, ids: int, *, drafts: int, chance: float, seed: int
    ) -> None:
        """Not started yet."""
        super().__init__(daemon=True)
        self._client, self._texts, self._vocabulary = EdgeClient(address), texts, vocabulary
        self._ids, self._drafts, self._chance = DraftIds(known=None, vocab_size=ids), drafts, chance
        self._random = np.random.default_rng(seed)
        self.tokens = 0
        """Verified so far."""
        self.waits: list[float] = []
        """Seconds of each round, from its message to its answer."""
        self.error: BaseException | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Decode."""
        try:
            for text in itertools.cycle(self._texts):
                self._decode(text)
                if self._over.is_set():
                    return
        except BaseException as error:
            self.error = error
        finally:
            self._client.close()

    def stop(self) -> None:
        """Begin no further round."""
        self._over.set()

    def _decode(self, text: Text) -> None:
        name, most = os.urandom(SESSION_BYTES), self._drafts or 4
        opening = pb.OpenRequest(
            session=name,
            vocabulary=self._vocabulary,
            payload=describe_payload(PAYLOAD, self._ids),
            sampling=pb.Sampling(temperature=0.0, top_p=1.0),
            tokens=text.prompt,
            prompt_length=len(text.prompt),
            max_new_tokens=len(text.answer) + most + 1,
            max_draft_length=most,
        )
        found, number = [self._client.call("Open", opening).first_token], 1
        while len(found) < len(text.answer) and not self._over.is_set():
            proposed = self._propose(text.answer[len(found) :])
            message = PAYLOAD.encode_uplink(self._message(proposed, most), 0, self._ids)
            began = time.perf_counter()
            reply = self._client.call("Verify", pb.VerifyRequest(session=name, round=number, uplink=message))
            self.waits.append(time.perf_counter() - began)
            answer = PAYLOAD.decode_downlink(reply.downlink, len(proposed), most, self._ids)
            streamed = int(answer.num_streamed[0])
            kept = proposed[: int(answer.accepted[0])] + np.asarray(answer.streamed)[0, :streamed].tolist()
            found += [*kept, int(answer.next_token[0])]
            number += streamed + 1
            self.tokens += len(kept) + 1
        self._client.forget(name)
        if found[: len(text.answer)] != text.answer[: len(found)]:
            raise GelatoError("an answer over the wire is not the target's own")

    def _propose(self, rest: Sequence[int]) -> list[int]:
        """The next drafts: right ones, and from the first that is wrong on any."""
        drafts = list(rest[: self._drafts])
        right = self._random.random(len(drafts)) < self._chance
        first_wrong = len(drafts) if right.all() else int(np.argmin(right))
        other = [(token + 1) % self._ids.vocab_size for token in drafts[first_wrong:]]
        return drafts[:first_wrong] + other

    def _message(self, proposed: Sequence[int], most: int) -> Uplink:
        tokens = np.zeros((1, most), np.int32)
        tokens[0, : len(proposed)] = proposed
        wanted = 1 if proposed else most + 1
        return Uplink(
            active=np.ones(1, bool),  # type: ignore[arg-type]
            tokens=tokens,  # type: ignore[arg-type]
            length=np.asarray([len(proposed)], np.int32),  # type: ignore[arg-type]
            wanted=np.asarray([wanted], np.int32),  # type: ignore[arg-type]
        )


def measure(
    sessions: Sessions, address: str, texts: Sequence[Text], count: int, seconds: float, **drafting: Any
) -> dict[str, Any]:
    """Let `count` devices decode for some seconds, after as many to warm up; figures of the time between.

    Raises:
        GelatoError: an answer is not the target's, or the edge refuses a device.
    """
    vocabulary, ids = sessions.vocabulary, sessions.target.config.valid_outputs
    devices = [
        Device(address, texts[number:] + texts[:number], vocabulary, ids, seed=number, **drafting)  # type: ignore[operator]
        for number in range(count)
    ]
    for device in devices:
        device.start()
    time.sleep(seconds / 2)
    before = [(device.tokens, len(device.waits)) for device in devices]
    client = EdgeClient(address)
    first, began = client.info(), time.perf_counter()
    time.sleep(seconds)
    elapsed, last = time.perf_counter() - began, client.info()
    client.close()
    rates = [(device.tokens - tokens) / elapsed for device, (tokens, _) in zip(devices, before, strict=True)]
    rounds = [len(device.waits) - seen for device, (_, seen) in zip(devices, before, strict=True)]
    waits = [wait for device, (_, seen) in zip(devices, before, strict=True) for wait in device.waits[seen:]]
    for device in devices:
        device.stop()
    for device in devices:
        device.join()
        if device.error is not None:
            raise device.error
    return {
        "devices": count,
        **{name: drafting[name] for name in ("drafts", "chance")},
        "tokens_per_s": sum(rates),
        "slowest_over_fastest": min(rates) / max(rates),
        "fewest_over_most_rounds": min(rounds) / max(rounds),
        "round_ms": 1e3 * statistics.median(waits),
        "rounds_at_once": (last.rounds - first.rounds) / max(last.batches - first.batches, 1),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeLoad:
    """Verified tokens/s of one edge on this machine, by how many devices draft for it."""

    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target, as in `gelato generate`."""
    devices: Annotated[tuple[int, ...], arg(metavar="N")] = (1, 2, 4, 8)
    """How many at once, one measurement each."""
    drafts: Annotated[tuple[int, ...], arg(metavar="G")] = (0, 4)
    """Drafts of a round; 0: the target streams five tokens at a time."""
    chance: Annotated[float, arg(metavar="P")] = 0.6
    """That a draft is right, after right ones."""
    seconds: Annotated[float, arg(metavar="S")] = 10.0
    """Of each measurement, after half as many."""
    max_new_tokens: Annotated[int, arg(metavar="N")] = 96
    """Of each answer."""
    limit: Annotated[int, arg(metavar="N")] = 8
    """Prompts."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where figures go, too."""

    def run(self) -> None:
        """Measure and print.

        Raises:
            GelatoError: a model cannot be had, or an answer differs.
        """
        from gelato_checkpoints import load_pair
        from gelato_experiments.prompts import read_prompts
        from gelato_jax.files import write_json

        pair = load_pair(self.model, "lookup")
        settings = gelato.DecodeSettings(max_new_tokens=self.max_new_tokens)
        prompts = [pair.tokenizer.chat_prompt(prompt) for prompt in read_prompts(None, self.limit)]
        answers = gelato.autoregressive(pair, prompts, settings=settings)
        texts = [Text(list(prompt), list(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        most = max(self.devices)
        sessions = Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids, most=2 * most)
        server, port = serve(sessions, "127.0.0.1:0")
        rows = []
        try:
            for drafts in self.drafts:
                for count in self.devices:
                    given = {"drafts": drafts, "chance": self.chance}
                    row = measure(sessions, f"127.0.0.1:{port}", texts, count, self.seconds, **given)
                    alone = next((other for other in rows if other["drafts"] == drafts), row)
                    row["over_first"] = row["tokens_per_s"] / alone["tokens_per_s"]
                    rows.append(row)
                    print(json.dumps({name: round(value, 3) for name, value in row.items()}), flush=True)
        finally:
            server.stop(0).wait()
        if self.json is not None:
            write_json(self.json, {"model": self.model, "rows": rows})


if __name__ == "__main__":
    try:
        tyro.cli(EdgeLoad).run()
    except GelatoError as error:
        sys.exit(f"error: {error}")
