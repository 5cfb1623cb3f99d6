"""`gelato serve`: a pair behind OpenAI's interface, for chat programs and other clients."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg, configure

from gelato_jax.addresses import check_address
from gelato_jax.cli.options import (
    ControlOptions,
    PairOptions,
    PayloadOptions,
    Range,
    RemoteOptions,
    WorldOptions,
    complete,
    flag,
)
from gelato_jax.cli.remote import connect, need_grpc, read_token
from gelato_jax.errors import GelatoError

_REQUESTS: dict[str, Any] = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0, "stop": ()}
"""What each request says for itself."""
_GUARD = "--insecure in a network that you trust, or behind a proxy with TLS; --api-key-file keeps strangers out"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Who is served, and how much."""

    listen: Annotated[str, arg(metavar="HOST:PORT")] = "127.0.0.1:8000"
    """Where to listen; 0.0.0.0:8000 is all of this machine's addresses."""
    api_key_file: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """File that holds the key which every client must bring."""
    insecure: bool = False
    """Let other machines in: the server speaks plain HTTP. In a network that you trust, or behind a proxy with TLS."""
    max_new_tokens: Annotated[int, arg(metavar="N"), Range(1)] = 256
    """Tokens of an answer whose request does not say."""
    max_waiting: Annotated[int, arg(metavar="N"), Range(0, 10_000)] = 32
    """Requests that may wait for their turn; more are turned away."""
    at_once: Annotated[int, arg(metavar="N"), Range(1, 64)] = 1
    """Requests that are decoded beside each other: they share the target's passes, up to 8 in one. Above 1, a request
    that is alone is some 20 % slower. A cap in watts or joules needs one queue: one request at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedSystemOptions(WorldOptions):
    """The device, link and edge by which drafting is planned; names from `gelato presets`."""

    system: Annotated[
        Literal["modelled", "local"] | None, arg(help_behavior_hint="(default: local, with --remote modelled)")
    ] = None
    """local: this machine's own measured times, no link, no energy. modelled: the presets of --device, --link and
    --edge."""


@configure(OmitArgPrefixes)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a pair as OpenAI's API does: chat programs, the openai package, or the page at / talk to it.

    With --remote this machine drafts and an edge verifies. SIGTERM or Ctrl-C ends it behind the requests under way.
    """

    pair: PairOptions
    listen: ListenOptions
    control: ControlOptions
    payload: PayloadOptions
    system: ServedSystemOptions
    remote: RemoteOptions

    def run(self) -> int:
        """Serve until a signal."""
        from gelato_jax.cli.choices import build

        system = self.system
        if system.system is None:
            system = dataclasses.replace(system, system="modelled" if self.remote.remote else "local")
        values = complete(self.pair, self.listen, self.control, self.payload, system, self.remote)
        host, port = check_address(self.listen.listen, is_guarded=self.listen.insecure, guard=_GUARD)
        key = None if self.listen.api_key_file is None else read_token(self.listen.api_key_file)
        settings, choices = build({**values, **_REQUESTS})
        client = connect(values)
        _need_server()
        if self.listen.at_once > 1:
            _allow_several(values)

        from gelato_jax.serving.app import make_app, serve

        engine = _engine(values, settings, choices, client)
        name = Path(values["model"]).name
        hosts = ["*"] if self.listen.insecure else ["localhost", "127.0.0.1", "::1", "[::1]", host]
        app = make_app(
            engine, model=name, api_key=key, hosts=hosts, at_once=values["at_once"], most_waiting=values["max_waiting"]
        )

        def ready(port: int) -> None:
            print(f"gelato: {name} is served on http://{host}:{port}", file=sys.stderr, flush=True)

        with contextlib.nullcontext() if client is None else contextlib.closing(client):
            serve(app, host.strip("[]"), port, ready=ready)
        return 0


def _engine(values: dict[str, Any], settings: Any, choices: dict[str, Any], client: Any):
    """Load, measure, compile."""
    from gelato_jax.cli.cache import keep_programs
    from gelato_jax.cli.opening import open_pair
    from gelato_jax.cli.progress import Progress
    from gelato_jax.serving.engine import Engine

    keep_programs()
    with Progress() as progress:
        pair, stream = open_pair(values, settings, choices, client, progress, at_once=values["at_once"])
        engine = Engine(pair, settings, stream)
        engine.warm()
    return engine


def _allow_several(values: dict[str, Any]) -> None:
    """Refuse in one line what needs one request at a time."""
    need_grpc("--at-once above 1")
    for name in ("power_budget_w", "energy_budget_j"):
        if values[name] is not None:
            raise GelatoError(
                f"{flag(name)} is kept by one queue, for one request at a time; leave it or --at-once out"
            )


def _need_server() -> None:
    """Refuse in one line where the extra is not installed."""
    try:
        import prometheus_client  # noqa: F401
        import sse_starlette  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        needs = "starlette, uvicorn, sse-starlette and prometheus-client"
        raise GelatoError(f'gelato serve needs {needs}; pip install "gelato-jax[serve]"') from None
