"""`gelato edge`: the server of two machines, which verifies what devices draft."""

import dataclasses
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from gelato_jax.addresses import check_address
from gelato_jax.cli.options import Range, WeightsName, complete
from gelato_jax.cli.remote import need_grpc, read_token
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
    listen: Annotated[str, arg(metavar="HOST:PORT")] = "127.0.0.1:8470"
    """Where to listen; 0.0.0.0:8470 is all of this machine's addresses."""
    token_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """File that holds the token which every device must bring."""
    tls_certificate: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: no TLS)")] = None
    """Certificate chain, PEM."""
    tls_key: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: no TLS)")] = None
    """Its private key, PEM."""
    insecure: bool = False
    """Let other machines in without TLS and token: for a network that you trust."""
    max_sessions: Annotated[int, arg(metavar="N"), Range(1, 1024)] = 16
    """Requests at once; each holds a cache."""

    def run(self) -> int:
        """Serve until a signal."""
        complete(self)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise GelatoError("--tls-certificate and --tls-key belong together: give both")
        certificate = (self.tls_certificate, self.tls_key) if self.tls_certificate and self.tls_key else None
        token = None if self.token_file is None else read_token(self.token_file)
        need_grpc("gelato edge")

        import gelato_checkpoints
        from gelato_jax.cli.cache import keep_programs
        from gelato_jax.cli.progress import Progress
        from gelato_jax.remote.edge import GUARD, serve
        from gelato_jax.remote.sessions import Sessions

        check_address(self.listen, is_guarded=self.insecure or bool(token and certificate), guard=GUARD)
        keep_programs()
        with Progress() as progress:
            checkpoint = gelato_checkpoints.load_checkpoint(self.model, weights=self.weights, progress=progress.stage)
            target = gelato_checkpoints.load_model(checkpoint)
        tokenizer = checkpoint.tokenizer
        sessions = Sessions(target, tokenizer.fingerprint, eos_ids=tokenizer.eos_ids, most=self.max_sessions)
        server, port = serve(
            sessions,
            self.listen,
            model=self.model,
            token=token,
            certificate=certificate,
            insecure=self.insecure,
        )
        host = self.listen.rpartition(":")[0]
        print(f"gelato: {self.model} is served on {host}:{port}", file=sys.stderr, flush=True)
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        print("gelato: no new calls; those under way are served", file=sys.stderr, flush=True)
        server.stop(_DRAIN_S).wait()
        if sessions.rounds:
            mean = sessions.rounds / sessions.batches
            print(f"gelato: {sessions.rounds} rounds were answered, {mean:.1f} at once", file=sys.stderr)
        return 0
