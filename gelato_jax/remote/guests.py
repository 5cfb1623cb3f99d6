"""Who calls an edge, and how often: tokens compared in constant time, calls counted by the second."""

import dataclasses
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Mapping

_BURST_S = 2.0
"""Calls of so many seconds may come at once."""
_REMEMBERED = 10_000
"""Guests whose calls are counted; beyond them those that have been quiet are forgotten."""


class UnknownError(Exception):
    """A call whose token is missing or wrong."""


class TooManyError(Exception):
    """A guest that calls too often."""


@dataclasses.dataclass
class _Bucket:
    left: float
    seen: float


class Guests:
    """Names those who call by their token, and counts their calls; where no token is asked for, by address.

    Args:
        tokens: that are known, and the share of each; none lets everybody in.
        calls_per_s: of each guest; None does not count.
        clock: seconds.
    """

    def __init__(
        self,
        tokens: Mapping[str, float] | None = None,
        *,
        calls_per_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody has called yet."""
        self._expected = {f"Bearer {token}".encode(): share for token, share in (tokens or {}).items()}
        self._rate, self._clock = calls_per_s, clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    @property
    def are_known(self) -> bool:
        """Whether every call must bring a token."""
        return bool(self._expected)

    @property
    def shares(self) -> dict[str, float]:
        """By the names that `admit` gives."""
        return {_named(expected): share for expected, share in self._expected.items()}

    def admit(self, authorization: str | bytes, peer: str) -> str:
        """The name of who calls, in which no token can be read; "" for all where none is asked for.

        An address is no name: a device that moves has another, and goes on with its session.

        Args:
            authorization: as the call brings it.
            peer: its address, as gRPC writes it.

        Raises:
            UnknownError: see there.
            TooManyError: see there.
        """
        name = self._name(authorization) if self._expected else ""
        if self._rate is not None:
            self._count(name or peer.rsplit(":", 1)[0], self._rate)  # the port is another with each connection
        return name

    def _name(self, authorization: str | bytes) -> str:
        given = authorization if isinstance(authorization, bytes) else authorization.encode()
        # Every token is compared, each as long wherever it differs: time tells nothing.
        known = [hmac.compare_digest(given, expected) for expected in self._expected]
        if not any(known):
            raise UnknownError("the token is missing or wrong")
        return _named(given)

    def _count(self, name: str, rate: float) -> None:
        now, most = self._clock(), max(_BURST_S * rate, 1.0)
        with self._lock:
            if len(self._buckets) > _REMEMBERED:
                self._buckets = {one: bucket for one, bucket in self._buckets.items() if now - bucket.seen < _BURST_S}
            bucket = self._buckets.setdefault(name, _Bucket(most, now))
            bucket.left = min(bucket.left + rate * (now - bucket.seen), most)
            bucket.seen = now
            if bucket.left < 1.0:
                raise TooManyError(f"more than {rate:g} calls a second; slower")
            bucket.left -= 1.0


def _named(authorization: bytes) -> str:
    return hashlib.sha256(authorization).hexdigest()[:12]
