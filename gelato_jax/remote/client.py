"""A device's connection to an edge: calls that are made again until somebody answers, and what was measured of them."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import grpc

from gelato_jax.errors import GelatoError
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote import edge_pb2_grpc
from gelato_jax.remote.wire import MESSAGE_BYTES

CALL_S = 120.0
"""Most seconds of one call: the edge may compile for the first. A broken connection is noticed much sooner."""
_FORGET_S = 2.0
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_RETRY = {
    "methodConfig": [
        {
            "name": [{"service": "gelato.v1.Edge"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.service_config", json.dumps(_RETRY)),
)


class AwayError(GelatoError):
    """The edge did not answer for as long as one waits for it."""


@dataclasses.dataclass
class Traffic:
    """What was measured of an edge's calls, beside the modelled figures of an observation."""

    rounds: int = 0
    messages: int = 0  # that rounds were sent for by: a stream goes on by itself
    waited_s: float = 0.0  # from a message to its answer, summed over rounds
    edge_s: float = 0.0  # of that at the edge, as it says: waiting for a turn, and the pass
    sent_bytes: int = 0  # messages of rounds, without gRPC's own
    received_bytes: int = 0
    retries: int = 0
    reopened: int = 0
    delay_s: float | None = None  # what the clock makes of the rounds: the network's delay
    edge_factor: float | None = None  # and the edge's seconds, of the preset's
    device_factor: float | None = None  # and this machine's joules, of the preset's, where a meter counts them
    metered_j: float = 0.0  # what the meter counted while rounds ran; 0 without one

    def add(self, *, waited_s: float, edge_s: float, sent: int, received: int) -> None:
        """Count a round."""
        self.rounds, self.messages = self.rounds + 1, self.messages + (sent > 0)
        self.waited_s, self.edge_s = self.waited_s + waited_s, self.edge_s + edge_s
        self.sent_bytes, self.received_bytes = self.sent_bytes + sent, self.received_bytes + received


class Client(Protocol):
    """What a stream asks of its connection."""

    address: str
    traffic: Traffic

    def call(self, method: str, request: Any) -> Any:
        """Make a call; GelatoError where it is refused or nobody answers, KeyError where its session is unknown."""
        ...

    def stream(self, request: pb.VerifyRequest) -> Iterator[pb.VerifyReply]:
        """Answers of a stream, as they come; GelatoError where it is refused. They may end early."""
        ...

    def forget(self, session: bytes) -> None:
        """Say that a session is over."""
        ...


class EdgeClient:
    """A connection to an edge.

    Args:
        address: `HOST:PORT`, or `unix:PATH`.
        token: that the edge asks for, or None.
        authority: file of the certificates that the edge's is checked against, PEM, for TLS; None is plain.
        patience_s: seconds for which an edge that does not answer is tried again.

    Raises:
        GelatoError: the file cannot be read.
    """

    def __init__(
        self, address: str, *, token: str | None = None, authority: Path | None = None, patience_s: float = 60.0
    ) -> None:
        """Connects with the first call."""
        self.address, self.patience_s = address, patience_s
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        if authority is None:
            channel = grpc.insecure_channel(address, options=_OPTIONS)
        else:
            try:
                roots = authority.read_bytes()
            except OSError as error:
                raise GelatoError(f"{authority}: {error.strerror}") from None
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), options=_OPTIONS)
        self._channel, self._stub = channel, edge_pb2_grpc.EdgeStub(channel)
        self._goodbyes: set[grpc.Future] = set()
        self.traffic = Traffic()

    def info(self) -> pb.InfoReply:
        """What the edge serves."""
        return self.call("Info", pb.InfoRequest())

    def call(self, method: str, request: Any) -> Any:
        """Make a call, again and again while nobody answers.

        Raises:
            GelatoError: the edge refuses it.
            AwayError: it did not answer for `patience_s`.
            KeyError: the edge knows no such session.
        """
        began = time.monotonic()
        while True:
            try:
                return getattr(self._stub, method)(request, timeout=CALL_S, metadata=self._metadata)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()  # type: ignore[attr-defined]
                if code == grpc.StatusCode.NOT_FOUND:
                    raise KeyError(details) from None
                if code not in _LOST:
                    raise self._refusal(error) from None
                if time.monotonic() - began > self.patience_s:
                    raise AwayError(
                        f"edge {self.address} does not answer ({details}); is `gelato edge` running there?"
                        f"{self._proxy_hint()}"
                    ) from None
                self.traffic.retries += 1
                time.sleep(0.2)

    def stream(self, request: pb.VerifyRequest) -> Iterator[pb.VerifyReply]:
        """Answers of a stream, as they come. They end early where connection or session are lost: `call` goes on then.

        Raises:
            GelatoError: the edge refuses it.
        """
        answers = self._stub.Stream(request, timeout=CALL_S, metadata=self._metadata)
        try:
            yield from answers
        except grpc.RpcError as error:
            if error.code() not in (*_LOST, grpc.StatusCode.NOT_FOUND):  # type: ignore[attr-defined]
                raise self._refusal(error) from None
        finally:
            answers.cancel()

    def forget(self, session: bytes) -> None:
        """Tell the edge that a session is over, once, and go on: an edge that does not hear it finds out in time."""
        goodbye = pb.CloseRequest(session=session)
        call = self._stub.Close.future(goodbye, timeout=_FORGET_S, metadata=self._metadata)
        self._goodbyes.add(call)  # one that nobody holds is cancelled
        call.add_done_callback(self._goodbyes.discard)

    def _refusal(self, error: grpc.RpcError) -> GelatoError:
        return GelatoError(f"edge {self.address}: {error.details()}{self._proxy_hint()}")  # type: ignore[attr-defined]

    def _proxy_hint(self) -> str:
        """What to do about a proxy: gRPC takes it on the way to a machine in the next room, too."""
        proxies = [name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)]
        host = self.address.rpartition(":")[0]
        return f"; {proxies[0]} is set: add {host} to no_proxy to connect without it" if proxies else ""

    def close(self) -> None:
        """End the connection, once the edge has been told what is over."""
        for call in list(self._goodbyes):
            with contextlib.suppress(grpc.RpcError):
                call.result()
        self._channel.close()
