"""The edge's server: sessions behind gRPC, with a health check, tokens and TLS."""

import importlib.metadata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gelato_jax.addresses import check_address, is_socket_file
from gelato_jax.errors import GelatoError
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote import edge_pb2_grpc
from gelato_jax.remote.guests import Guests, TooManyError, UnknownError
from gelato_jax.remote.sessions import Refused, Sessions
from gelato_jax.remote.wire import MESSAGE_BYTES

SERVICE = "gelato.v1.Edge"
GUARD = "--token-file, --tls-certificate and --tls-key, or --insecure in a network that you trust"
"""What an edge that is open to other machines must be given."""
_CODES = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unknown": grpc.StatusCode.NOT_FOUND,
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "mismatch": grpc.StatusCode.FAILED_PRECONDITION,
    "away": grpc.StatusCode.UNAVAILABLE,
}
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second edge on one port is a mistake
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
)


class _Service(edge_pb2_grpc.EdgeServicer):
    """Calls of the protocol, faults as gRPC's status codes."""

    def __init__(self, sessions: Sessions, model: str, guests: Guests) -> None:
        self._sessions, self._model, self._guests = sessions, model, guests

    def Info(self, request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.InfoReply:
        """See `edge.proto`."""
        self._admit(context)
        config, tally = self._sessions.target.config, self._sessions.tally
        return pb.InfoReply(
            model=self._model,
            vocabulary=self._sessions.vocabulary,
            ids=config.valid_outputs,
            positions=config.max_positions,
            sessions=len(self._sessions),
            most_sessions=self._sessions.most,
            rounds=tally.rounds,
            batches=tally.batches,
            version=importlib.metadata.version("gelato-jax"),
        )

    def Open(self, request: pb.OpenRequest, context: grpc.ServicerContext) -> pb.OpenReply:
        """See `edge.proto`."""
        return self._served(self._sessions.open, request, context)

    def Verify(self, request: pb.VerifyRequest, context: grpc.ServicerContext) -> pb.VerifyReply:
        """See `edge.proto`."""
        return self._served(self._sessions.verify, request, context)

    def Stream(self, request: pb.VerifyRequest, context: grpc.ServicerContext) -> Iterator[pb.VerifyReply]:
        """See `edge.proto`."""
        owner = self._admit(context)
        try:
            yield from self._sessions.stream(request, owner)
        except Refused as refused:
            self._abort(refused, context)

    def Row(self, request: pb.RowRequest, context: grpc.ServicerContext) -> pb.RowReply:
        """See `edge.proto`."""
        return self._served(self._sessions.row, request, context)

    def Close(self, request: pb.CloseRequest, context: grpc.ServicerContext) -> pb.CloseReply:
        """See `edge.proto`."""
        return self._served(self._sessions.close, request, context)

    def _served(self, call: Callable[..., Any], request: Any, context: grpc.ServicerContext) -> Any:
        owner = self._admit(context)
        try:
            return call(request, owner)
        except Refused as refused:
            self._abort(refused, context)

    def _admit(self, context: grpc.ServicerContext) -> str:
        """Who calls."""
        given = dict(context.invocation_metadata()).get("authorization", "")
        try:
            return self._guests.admit(given, context.peer())
        except UnknownError as error:
            self._sessions.tally.refused["stranger"] += 1
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except TooManyError as error:
            self._sessions.tally.refused["too many calls"] += 1
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))  # a device waits, and comes again

    def _abort(self, refused: Refused, context: grpc.ServicerContext) -> NoReturn:
        self._sessions.tally.refused[refused.kind] += 1
        context.abort(_CODES[refused.kind], str(refused))


def serve(
    sessions: Sessions,
    address: str,
    *,
    model: str = "",
    guests: Guests | None = None,
    certificate: tuple[Path, Path] | None = None,
    insecure: bool = False,
) -> tuple[grpc.Server, int]:
    """Start a server; it runs in threads of its own.

    Args:
        sessions: what it serves.
        address: `HOST:PORT`, where port 0 takes a free one; or `unix:PATH`.
        model: the target's name, for `Info`.
        guests: who may call, and how often; everybody if not given.
        certificate: files of the certificate chain and its key, PEM, for TLS; None is plain.
        insecure: allow others than this machine without TLS and token.

    Returns:
        The server, which `stop(seconds)` ends when its calls are served, and its port, if it has one.

    Raises:
        GelatoError: the address cannot be had, is open to others without TLS and token, or a file is unreadable.
    """
    if not is_socket_file(address):
        check_address(address, is_guarded=insecure or bool(guests and guests.are_known and certificate), guard=GUARD)
    server = grpc.server(
        ThreadPoolExecutor(max_workers=2 * sessions.most, thread_name_prefix="edge"),
        options=_OPTIONS,
    )
    edge_pb2_grpc.add_EdgeServicer_to_server(_Service(sessions, model, guests or Guests()), server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ("", SERVICE):
        checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            chain, key = (_read(path) for path in certificate)
            port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
    except RuntimeError:
        raise GelatoError(f"{address} cannot be listened on: is it in use, and this machine's own?") from None
    server.start()
    return server, port


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GelatoError(f"{path}: {error.strerror}") from None
