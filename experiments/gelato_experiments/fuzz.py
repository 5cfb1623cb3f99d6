"""`python -m gelato_experiments.fuzz`: an edge under calls that nobody would make, beside a device that goes on.

Sound calls of every scheme are harvested and damaged: bits, lengths, counts, names, fields, whole messages.
An edge may refuse such a call, or answer it; anything else is a fault, as is any change in the text of the device.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import tyro
from google.protobuf.message import DecodeError
from tyro.conf import arg

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.errors import GelatoError
from gelato_jax.payloads import Payload
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.device import stream, without_weights
from gelato_jax.remote.edge import serve
from gelato_jax.remote.sessions import Refused, Sessions
from gelato_jax.remote.wire import SESSION_BYTES

SCHEMES: tuple[Payload, ...] = (
    payloads.full(),
    payloads.top_p(0.8),
    payloads.top_k(5),
    payloads.quantized(5),
    payloads.scalar(),
    payloads.candidates(2),
    payloads.seeded(),
)
SETTINGS = gelato.DecodeSettings(max_draft_length=3, stream_length=7, max_new_tokens=32, temperature=1.0)
_ODD = (b"", b"\0", b"\xff", b"\0" * 40, b"\xff" * 4000, bytes(range(256)))
_NUMBERS = (0, 1, 2, 3, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_CALLS = {"verify": pb.VerifyRequest, "stream": pb.VerifyRequest, "row": pb.RowRequest, "close": pb.CloseRequest}
_HARVEST = 2
"""Sound decodes of each scheme, of which calls are kept."""


class Watched:
    """Sessions whose calls are kept."""

    def __init__(self, sessions: Sessions) -> None:
        """Nothing kept yet."""
        self.sessions, self.calls = sessions, collections.defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        """As the sessions'."""
        return getattr(self.sessions, name)

    def __len__(self) -> int:
        """As the sessions'."""
        return len(self.sessions)

    def open(self, call: pb.OpenRequest, owner: str = "") -> pb.OpenReply:
        """As the sessions', kept."""
        self.calls["open"].append(call)
        return self.sessions.open(call, owner)

    def verify(self, call: pb.VerifyRequest, owner: str = "") -> pb.VerifyReply:
        """As the sessions', kept."""
        self.calls["verify"].append(call)
        return self.sessions.verify(call, owner)

    def stream(self, call: pb.VerifyRequest, owner: str = "") -> Iterator[pb.VerifyReply]:
        """As the sessions', kept."""
        self.calls["verify"].append(call)
        return self.sessions.stream(call, owner)


@contextlib.contextmanager
def _device(sessions: Any) -> Iterator[EdgeClient]:
    server, port = serve(sessions, "127.0.0.1:0")
    client = EdgeClient(f"127.0.0.1:{port}")
    try:
        yield client
    finally:
        client.close()
        server.stop(0).wait()


def decode(pair: gelato.Pair, prompt: Sequence[int], client: EdgeClient, payload: Payload, seed: int) -> list[int]:
    """A text over the wire: of three drafts a round, or streamed, by its seed."""
    settings = dataclasses.replace(SETTINGS, seed=seed)
    choices = {"controller": control.static(3 * (seed % 2)), "payload": payload}
    watched = stream(without_weights(pair), list(prompt), client, settings=settings, **choices)
    for _ in watched:
        pass
    return watched.generation().tokens[0]


class Damage:
    """Makes calls that nobody would make from those that somebody made.

    Args:
        calls: sound ones by method, in the order in which they were made.
        seed: of all that is random.
    """

    def __init__(self, calls: dict[str, list[Any]], seed: int) -> None:
        """Ready."""
        self._calls, self._random = calls, random.Random(seed)
        self._names: list[bytes] = [self._random.randbytes(16) for _ in range(4)]

    def next(self) -> tuple[str, Any]:
        """A method of `Sessions`, and a call."""
        method = self._random.choices(("open", "verify", "stream", "row", "close"), (2, 6, 2, 1, 0.2))[0]
        if method == "open":
            call = pb.OpenRequest()
            call.CopyFrom(self._random.choice(self._calls["open"]))
            call.session = self._random.choice(self._names)
            if self._random.random() < 0.7:
                self._bend_opening(call)
        else:
            call = _CALLS[method]()
            call.session = self._random.choice([*self._names, b"", b"short"])
            if method != "close":
                call.round = self._random.choice((1, 1, 1, 2, 3, 4, 5, *_NUMBERS))
            if method in ("verify", "stream"):
                call.uplink = self._bent(self._random.choice(self._calls["verify"]).uplink)
        if self._random.random() < 0.1:
            call = self._scrambled(call)
            if method == "open" and len(call.session) == SESSION_BYTES:
                call.session = self._random.choice(self._names)  # else sessions that nobody uses would fill the edge
        return method, call

    def _bend_opening(self, call: pb.OpenRequest) -> None:
        """Change a field; lengths stay small, for each size and scheme is a program to be made."""
        change: Callable[[], None] = self._random.choice(
            (
                lambda: setattr(call, "prompt_length", self._random.choice(_NUMBERS)),
                lambda: setattr(call, "max_new_tokens", self._random.choice((0, 1, 5000, *_NUMBERS[7:]))),
                lambda: setattr(call, "max_draft_length", self._random.choice((33, *_NUMBERS[5:]))),
                lambda: setattr(call, "round", self._random.choice(_NUMBERS)),
                lambda: setattr(call, "vocabulary", self._random.choice(("", "x" * 5000))),
                lambda: setattr(
                    call.sampling,
                    "temperature",
                    self._random.choice((-1.0, 0.0, 1e-30, 1e30, float("nan"), float("inf"))),
                ),
                lambda: setattr(call.sampling, "top_p", self._random.choice((-1.0, 0.0, 1e-6, 2.0, float("nan")))),
                lambda: setattr(call.sampling, "top_k", self._random.choice(_NUMBERS)),
                lambda: setattr(call.payload, "scheme", self._random.choice(("", "seeded", "\0", "full" * 100))),
                lambda: setattr(call.payload, "number", self._random.choice((-1.0, 1e300, float("nan"), float("inf")))),
                lambda: call.payload.known.extend(self._random.choice(((5, 4), (2**32 - 1,), (7, 7)))),
                lambda: call.tokens.extend(self._random.choices(_NUMBERS, k=3)),
                lambda: call.tokens.__delitem__(slice(self._random.randint(0, 3), None)),
            )
        )
        change()

    def _bent(self, data: bytes) -> bytes:
        """A message with some bits turned, cut, or made longer; or another."""
        kind = self._random.randrange(6)
        if kind == 0:
            return self._random.choice(_ODD)
        if kind == 1:
            return self._random.randbytes(self._random.randint(0, 300))
        if kind == 2:
            return data[: self._random.randint(0, len(data))]
        if kind == 3:
            return data + self._random.randbytes(self._random.randint(1, 9))
        bits = bytearray(data)
        for _ in range(self._random.randint(0, 6) if bits else 0):
            bits[self._random.randrange(len(bits))] ^= 1 << self._random.randrange(8)
        return bytes(bits)

    def _scrambled(self, call: Any) -> Any:
        """The call whose own bytes were damaged, if that is a call still."""
        try:
            return type(call).FromString(self._bent(call.SerializeToString()))
        except DecodeError:
            return call


@dataclasses.dataclass
class Outcome:
    """What came of it.

    Attributes:
        calls: made, by method.
        refused: of them, by kind.
        texts: of the device beside them, compared.
        different: of those, that were not as alone.
        faults: calls that ended in anything but a reply or a refusal, and any error of the device: the error, and what
            met it.
    """

    calls: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    refused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    texts: int = 0
    different: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


def run(
    pair: gelato.Pair,
    *,
    inputs: int,
    seed: int = 0,
    schemes: Sequence[Payload] = SCHEMES,
    sessions: Sessions | None = None,
    watch: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Make calls, and decode beside them.

    Args:
        pair: on both ends; small, for thousands of its rounds are run.
        inputs: calls.
        seed: of all that is random.
        schemes: payloads.
        sessions: those served; fresh ones if not given.
        watch: told after every hundredth call.
    """
    if sessions is None:
        sessions = Sessions(pair.target, pair.tokenizer.fingerprint, eos_ids=pair.eos_ids)
    outcome, prompt = Outcome(), [3, 1, 4, 1, 5]
    watched = Watched(sessions)
    expected = {}
    with _device(watched) as client:
        for payload in schemes:
            for number in range(_HARVEST):
                expected[payload.scheme, number] = decode(pair, prompt, client, payload, number)
    damage, over = Damage(watched.calls, seed), threading.Event()

    def live_on() -> None:
        with _device(sessions) as client:
            for number, payload in enumerate(itertools.cycle(schemes)):
                if over.is_set():
                    return
                seed = number // len(schemes) % _HARVEST
                try:
                    text = decode(pair, prompt, client, payload, seed)
                except Exception as error:
                    outcome.faults.append(f"the device under {payload.scheme}: {type(error).__name__}: {error}")
                    continue
                outcome.texts += 1
                outcome.different += text != expected[payload.scheme, seed]

    device = threading.Thread(target=live_on)
    device.start()
    try:
        for count in range(inputs):
            method, call = damage.next()
            outcome.calls[method] += 1
            try:
                reply = getattr(sessions, method)(call)
                if method == "stream":
                    collections.deque(reply, maxlen=0)
            except Refused as refused:
                outcome.refused[refused.kind] += 1
            except Exception as error:
                outcome.faults.append(f"{method}: {type(error).__name__}: {error}; the call was {call!r}")
            if count % 100 == 99:
                watch(outcome)
    finally:
        over.set()
        device.join()
    return outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fuzz:
    """Make calls that nobody would make to an edge with a tiny random target, beside a device that decodes."""

    inputs: Annotated[int, arg(metavar="N")] = 100_000
    """Calls."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of all that is random."""

    def run(self) -> int:
        """Fuzz; exit code 1 where there was a fault, or a text differs."""
        from gelato_jax.testing import tiny_pair

        def watch(outcome: Outcome) -> None:
            made = outcome.calls.total()
            if made % 5000 == 0:
                print(f"{made} calls, {len(outcome.faults)} faults, {outcome.texts} texts", file=sys.stderr, flush=True)

        outcome = run(tiny_pair(0.02, exits=()), inputs=self.inputs, seed=self.seed, watch=watch)
        figures = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
        print(json.dumps({**figures, "faults": outcome.faults[:10]}, indent=2))
        return 1 if outcome.faults or outcome.different else 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(Fuzz).run())
    except GelatoError as error:
        sys.exit(f"error: {error}")
