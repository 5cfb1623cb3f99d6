"""`python -m gelato_experiments.soak --out DIR`: a device and an edge over a real socket, whose calls are disturbed.

Every text is decoded on one machine first, then over the wire, and the two are compared token for token. Between the
socket and the edge's sessions calls are lost, answers are lost, calls arrive twice or again when they are long
answered, and the edge forgets sessions. Killed, the same command goes on; nothing else than this machine is reached.
"""

import collections
import contextlib
import dataclasses
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import arg

import gelato_jax as gelato
from gelato_jax import control, payloads
from gelato_jax.errors import GelatoError
from gelato_jax.files import read_json, write_json
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import EdgeClient
from gelato_jax.remote.device import stream
from gelato_jax.remote.edge import serve
from gelato_jax.remote.sessions import Refused, Sessions

FAULTS = ("lost call", "lost answer", "doubled call", "stale call", "forgotten session")
PAYLOADS = (payloads.candidates(32), payloads.scalar(), payloads.seeded())
_TEMPERATURES = (0.0, 1.0)
_DRAFTS = (3, 0)
"""Of a round; with none the target streams."""


class Disturbed:
    """Sessions as a bad network and a forgetful edge show them.

    Args:
        sessions: what is served.
        chance: of a fault, for each call.
    """

    def __init__(self, sessions: Sessions, chance: float) -> None:
        """Without any fault yet."""
        self.target, self.vocabulary, self.most = sessions.target, sessions.vocabulary, sessions.most
        self.tally = sessions.tally
        self.faults: collections.Counter[str] = collections.Counter()
        self.random = random.Random(0)
        self._sessions, self._chance = sessions, chance
        self._answered: list[pb.VerifyRequest] = []

    def __len__(self) -> int:
        """Sessions that are held."""
        return len(self._sessions)

    def open(self, call: pb.OpenRequest, owner: str = "") -> pb.OpenReply:
        """As the sessions', disturbed."""
        self._answered.clear()
        return self._disturb(self._sessions.open, call, owner)

    def verify(self, call: pb.VerifyRequest, owner: str = "") -> pb.VerifyReply:
        """As the sessions', disturbed."""
        reply = self._disturb(self._sessions.verify, call, owner)
        self._answered.append(call)
        return reply

    def stream(self, call: pb.VerifyRequest, owner: str = "") -> Iterator[pb.VerifyReply]:
        """As the sessions', disturbed at every answer."""
        for reply in self._disturb(self._sessions.stream, call, owner):
            yield self._disturb(lambda *_, reply=reply: reply, call, owner)
        self._answered.append(call)

    def row(self, call: pb.RowRequest, owner: str = "") -> pb.RowReply:
        """As the sessions', disturbed."""
        return self._disturb(self._sessions.row, call, owner)

    def close(self, call: pb.CloseRequest, owner: str = "") -> pb.CloseReply:
        """As the sessions'."""
        return self._sessions.close(call, owner)

    def _disturb(self, serve: Callable[..., Any], call: Any, owner: str) -> Any:
        fault = self.random.choice(FAULTS) if self.random.random() < self._chance else None
        if fault == "stale call" and len(self._answered) < 2:
            fault = None
        if fault is not None:
            self.faults[fault] += 1
        if fault == "lost call":
            raise Refused("away", fault)
        if fault == "forgotten session":
            self._sessions.close(pb.CloseRequest(session=call.session), owner)
        if fault == "stale call":  # a copy that took a longer way; nobody waits for its answer
            with contextlib.suppress(Refused):
                self._sessions.verify(self.random.choice(self._answered[:-1]), owner)
        reply = serve(call, owner)
        if fault == "doubled call":
            reply = serve(call, owner)
        if fault == "lost answer":
            raise Refused("away", fault)
        return reply


@dataclasses.dataclass
class Outcome:
    """What came of it; kept in `soak.json`.

    Attributes:
        texts: compared.
        tokens: of them.
        different: numbers of the texts that differ; none, if all is well.
        faults: injected, by kind.
        retries: calls that the device made again after gRPC's own attempts, of which there are five.
        reopened: sessions that it opened again.
    """

    texts: int = 0
    tokens: int = 0
    different: list[int] = dataclasses.field(default_factory=list)
    faults: dict[str, int] = dataclasses.field(default_factory=dict)
    retries: int = 0
    reopened: int = 0


def run(
    pair: gelato.Pair,
    prompts: Sequence[Any],
    outcome: Outcome,
    *,
    faults: int,
    chance: float = 0.2,
    seed: int = 0,
    settings: gelato.DecodeSettings | None = None,
    schemes: Sequence[payloads.Payload] = PAYLOADS,
    sessions: Sessions | None = None,
    watch: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Compare texts until there were enough faults.

    Args:
        pair: on both ends.
        prompts: texts or ids; taken in turn.
        outcome: to go on from; it is changed.
        faults: injected at least.
        chance: of a fault, for each call.
        seed: of faults and texts.
        settings: lengths; temperature and seed are each text's.
        schemes: payloads; taken in turn.
        sessions: those served; fresh ones if not given.
        watch: told after each text.
    """
    settings = settings or gelato.DecodeSettings(max_new_tokens=48, stream_length=12)
    if sessions is None:
        sessions = Sessions(pair.target, pair.tokenizer.fingerprint)
    disturbed = Disturbed(sessions, chance)
    disturbed.faults.update(outcome.faults)
    server, port = serve(disturbed, "127.0.0.1:0")  # type: ignore[arg-type]
    client = EdgeClient(f"127.0.0.1:{port}")
    before = outcome.retries, outcome.reopened
    try:
        while disturbed.faults.total() < faults:
            number = outcome.texts
            disturbed.random = random.Random(f"{seed} {number}")
            scheme, kind = number % len(schemes), number // len(schemes)
            here = dataclasses.replace(settings, temperature=_TEMPERATURES[kind % 2], seed=(seed + number) % 2**32)
            prompt = prompts[number % len(prompts)]
            choices = {"controller": control.static(_DRAFTS[kind // 2 % 2]), "payload": schemes[scheme]}
            (wanted,) = gelato.generate(pair, [prompt], settings=here, **choices).tokens
            watched = stream(pair, prompt, client, settings=here, **choices)
            for _ in watched:
                pass
            (found,) = watched.generation().tokens
            outcome.texts += 1
            outcome.tokens += len(found)
            outcome.faults = dict(disturbed.faults)
            outcome.retries = before[0] + client.traffic.retries
            outcome.reopened = before[1] + client.traffic.reopened
            if found != wanted:
                outcome.different.append(number)
            watch(outcome)
    finally:
        client.close()
        server.stop(0).wait()
    return outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soak:
    """Disturb a device and an edge of this machine, and compare every text with one machine's."""

    out: Annotated[Path, arg(metavar="DIR")]
    """Folder of soak.json; the same command goes on with a run that was stopped."""
    faults: Annotated[int, arg(metavar="N")] = 1000
    """Faults to inject at least."""
    chance: Annotated[float, arg(metavar="P")] = 0.2
    """Of a fault, for each call."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of faults and texts."""
    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target, as in `gelato generate`; the draft that ships with it drafts."""

    def run(self) -> int:
        """Soak; exit code 1 where a text differs.

        Raises:
            GelatoError: a number out of range, or the folder was begun with other options.
        """
        if not 0.0 < self.chance <= 0.9 or self.faults < 1:
            raise GelatoError(f"--chance is {self.chance}, must be in (0, 0.9], --faults {self.faults}, at least 1")
        from gelato_checkpoints import load_pair
        from gelato_experiments.prompts import read_prompts

        path = self.out / "soak.json"
        asked = {"chance": self.chance, "seed": self.seed, "model": self.model}
        begun = read_json(path) or {**asked, **dataclasses.asdict(Outcome())}
        if any(begun[name] != value for name, value in asked.items()):
            raise GelatoError(f"{path} was begun with other options; give those again, or another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        outcome = Outcome(**{field.name: begun[field.name] for field in dataclasses.fields(Outcome)})

        def watch(outcome: Outcome) -> None:
            write_json(path, {**asked, **dataclasses.asdict(outcome)})
            if outcome.texts % 10 == 0 or outcome.different:
                count = sum(outcome.faults.values())
                line = f"{count} of {self.faults} faults, {outcome.texts} texts, {len(outcome.different)} differ"
                print(line, file=sys.stderr, flush=True)

        pair = load_pair(self.model)
        prompts = read_prompts(None, 40)
        run(pair, prompts, outcome, faults=self.faults, chance=self.chance, seed=self.seed, watch=watch)
        print(json.dumps({**asked, **dataclasses.asdict(outcome)}, indent=2))
        return 1 if outcome.different else 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(Soak).run())
    except GelatoError as error:
        sys.exit(f"error: {error}")
