"""A device's connection to an edge in its own process: several requests at once share the target's passes."""

from collections.abc import Iterator
from typing import Any

from gelato_jax.errors import GelatoError
from gelato_jax.remote import edge_pb2 as pb
from gelato_jax.remote.client import Traffic
from gelato_jax.remote.sessions import Refused, Sessions


class InsideClient:
    """As `client.EdgeClient`, without a network.

    Args:
        sessions: what it reaches.
    """

    address = "inside this process"

    def __init__(self, sessions: Sessions) -> None:
        """Connected."""
        self._sessions = sessions
        self.traffic = Traffic()

    def call(self, method: str, request: Any) -> Any:
        """Make a call.

        Raises:
            GelatoError: it is refused.
            KeyError: there is no such session.
        """
        try:
            return getattr(self._sessions, method.lower())(request)
        except Refused as refused:
            if refused.kind == "unknown":
                raise KeyError(str(refused)) from None
            raise GelatoError(str(refused)) from None

    def stream(self, request: Any) -> Iterator[Any]:
        """As `EdgeClient.stream`."""
        try:
            yield from self._sessions.stream(request)
        except Refused as refused:
            if refused.kind != "unknown":
                raise GelatoError(str(refused)) from None

    def forget(self, session: bytes) -> None:
        """A session is over."""
        self._sessions.close(pb.CloseRequest(session=session))
