"""`gelato edge`: the server of two machines, which verifies what devices draft."""

import dataclasses
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from gelato_jax.addresses import check_address, is_socket_file
from gelato_jax.cli.options import Range, WeightsName, complete
from gelato_jax.cli.remote import need_grpc, read_tokens
from gelato_jax.config import CacheType
from gelato_jax.errors import GelatoError

_DRAIN_S = 30.0
"""Calls under way may take so long after a signal to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edge:
    """Serve a target to devices: gelato generate PROMPT --remote HOST:PORT on another machine drafts for it.

    SIGTERM or Ctrl-C ends it when the calls under way are served; devices then wait, and go on when it is back.
    """

    model: Annotated[str, arg(metavar="MODEL")] = "smollm2-135m"
    """The target: a name from `gelato models`, hf:OWNER/NAME, a folder or a .gguf file."""
    weights: WeightsName = "auto"
    """How weights are kept, as in `gelato generate`."""
    cache: CacheType = "auto"
    """Type of keys and values, as in `gelato generate`."""
    listen: Annotated[str, arg(metavar="HOST:PORT")] = "127.0.0.1:8470"
    """Where to listen; 0.0.0.0:8470 is all of this machine's addresses, unix:PATH a file for this machine alone."""
    token_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """File of the tokens that devices must bring, one a line: each is another guest, with sessions of its own.
    A number behind a token is the guest's share of the target's time where that is short; 1 if there is none."""
    tls_certificate: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: no TLS)")] = None
    """Certificate chain, PEM."""
    tls_key: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: no TLS)")] = None
    """Its private key, PEM."""
    insecure: bool = False
    """Let other machines in without TLS and token: for a network that you trust."""
    max_sessions: Annotated[int, arg(metavar="N"), Range(1, 1024)] = 16
    """Requests at once; each holds a cache."""
    sessions_each: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: as many)"), Range(1, 1024)] = (
        None
    )
    """Of them of one guest, which is told by its token."""
    calls_per_s: Annotated[float | None, arg(metavar="N", help_behavior_hint="(default: not counted)"), Range(0.1)] = (
        None
    )
    """Calls of one guest a second, or of one address where there are no tokens; a device that makes more is told to
    wait, and does."""
    metrics: Annotated[str | None, arg(metavar="HOST:PORT", help_behavior_hint="(default: none)")] = None
    """Where Prometheus reads counters, at /metrics, in plain HTTP: numbers alone, no text and no names."""

    def run(self) -> int:
        """Serve until a signal."""
        complete(self)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise GelatoError("--tls-certificate and --tls-key belong together: give both")
        certificate = (self.tls_certificate, self.tls_key) if self.tls_certificate and self.tls_key else None
        tokens = {} if self.token_file is None else read_tokens(self.token_file)
        if self.sessions_each is not None and not tokens:
            raise GelatoError("--sessions-each tells guests apart by their tokens: give --token-file, or leave it out")
        need_grpc("gelato edge")
        if self.metrics is not None:
            check_address(self.metrics, is_guarded=True, guard="")
            _need_prometheus()

        import gelato_checkpoints
        from gelato_jax.cli.cache import keep_programs
        from gelato_jax.cli.progress import Progress
        from gelato_jax.remote.edge import GUARD, serve
        from gelato_jax.remote.guests import Guests
        from gelato_jax.remote.sessions import Sessions

        if not is_socket_file(self.listen):
            check_address(self.listen, is_guarded=self.insecure or bool(tokens and certificate), guard=GUARD)
        keep_programs()
        with Progress() as progress:
            checkpoint = gelato_checkpoints.load_checkpoint(self.model, weights=self.weights, progress=progress.stage)
            target = gelato_checkpoints.load_model(checkpoint).with_cache(self.cache)
        tokenizer = checkpoint.tokenizer
        guests = Guests(tokens, calls_per_s=self.calls_per_s)
        sessions = Sessions(
            target,
            tokenizer.fingerprint,
            eos_ids=tokenizer.eos_ids,
            most=self.max_sessions,
            most_each=self.sessions_each,
            shares=guests.shares,
        )
        server, port = serve(
            sessions,
            self.listen,
            model=self.model,
            guests=guests,
            certificate=certificate,
            insecure=self.insecure,
        )
        if self.metrics is not None:
            from gelato_jax.remote.metrics import show

            show(sessions, self.metrics)
        place = self.listen if is_socket_file(self.listen) else f"{self.listen.rpartition(':')[0]}:{port}"
        print(f"gelato: {self.model} is served on {place}", file=sys.stderr, flush=True)
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        print("gelato: no new calls; those under way are served", file=sys.stderr, flush=True)
        server.stop(_DRAIN_S).wait()
        tally = sessions.tally
        if tally.rounds:
            print(f"gelato: {tally.rounds} rounds were answered in {tally.batches} passes", file=sys.stderr)
        return 0


def _need_prometheus() -> None:
    """Refuse in one line where the extra is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise GelatoError('--metrics needs prometheus-client; pip install "gelato-jax[remote]"') from None
