"""The server: OpenAI's paths over an `Engine`, in turns, with a page to try it.

    GET  /                      a page that chats and shows drafts
    GET  /health                200 once requests are served
    GET  /metrics               for Prometheus
    GET  /v1/models
    POST /v1/chat/completions
    POST /v1/completions

Beside OpenAI's fields a body may have `gelato`: `speculative` false decodes by the target alone, `rounds` true tells of
every round in a stream. Every answer has `gelato`: what was measured, and what is modelled.
"""

import asyncio
import contextlib
import hmac
import json
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from importlib import resources
from typing import Any

import anyio
import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from gelato_jax.errors import GelatoError
from gelato_jax.serving.engine import Engine, Finished, Piece, Prepared
from gelato_jax.serving.metrics import CONTENT_TYPE, Metrics
from gelato_jax.serving.requests import Ask, BadRequest, Kind, Reply, error, read, usage

MOST_BYTES = 4 << 20
"""Of a body."""
DRAIN_S = 30.0
"""Streams under way may take so long after a signal to end."""
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
_Handler = Callable[[Request], Awaitable[Response]]


class Busy(Exception):
    """Too many requests wait."""


class Turns:
    """Requests in the order they came, some at once.

    Args:
        at_once: that have their turn.
        most: that may wait.
        metrics: told how many do.
    """

    def __init__(self, at_once: int, most: int, metrics: Metrics) -> None:
        self._most, self._metrics, self._waiting, self._running = most, metrics, 0, 0
        self._places = asyncio.Semaphore(at_once)

    def check(self) -> None:
        """Refuse one more where too many wait.

        Raises:
            Busy: see there.
        """
        if self._waiting >= self._most and self._places.locked():
            raise Busy

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Wait for one's turn, and have it."""
        self._wait(1)
        try:
            await self._places.acquire()
        finally:
            self._wait(-1)
        self._run(1)
        try:
            yield
        finally:
            self._run(-1)
            self._places.release()

    def _run(self, change: int) -> None:
        self._running += change
        self._metrics.running(self._running)

    def _wait(self, change: int) -> None:
        self._waiting += change
        self._metrics.waiting(self._waiting)


class _Server:
    """What the handlers share."""

    def __init__(self, engine: Engine, model: str, at_once: int, most_waiting: int) -> None:
        self.engine, self.model, self.metrics = engine, model, Metrics()
        self.turns = Turns(at_once, most_waiting, self.metrics)

    async def complete(self, request: Request, kind: Kind) -> Response:
        """Answer a body, whole or as events."""
        ask = read(await _body(request), kind, self.model)
        prepared = await run_in_threadpool(self.engine.prepare, ask)
        self.turns.check()
        reply = Reply(ask, self.model)
        if ask.stream:
            events = self._events(ask, prepared, reply)
            return EventSourceResponse(events, shutdown_event=anyio.Event(), shutdown_grace_period=DRAIN_S)
        text = ""
        async with contextlib.aclosing(self._decode(prepared)) as parts:
            async for part in parts:
                if await request.is_disconnected():
                    break
                if isinstance(part, Finished):
                    return JSONResponse(reply.whole(text, part.reason, _usage(part), part.figures))
                text += part.text
        self.metrics.left()
        raise ClientDisconnect

    async def models(self, request: Request) -> Response:
        """The one that is served."""
        entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "gelato"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def show_metrics(self, request: Request) -> Response:
        """All counters."""
        return Response(self.metrics.page(), headers={"content-type": CONTENT_TYPE})

    async def refuse(self, request: Request, fault: Any) -> Response:
        """Answer a `BadRequest`."""
        self.metrics.refused(fault.status)
        return JSONResponse(error(fault.message, param=fault.param, code=fault.code), status_code=fault.status)

    async def turn_away(self, request: Request, fault: Any) -> Response:
        """Answer a `Busy`."""
        self.metrics.refused(503)
        body = error("too many requests wait already; try again later", kind="server_error")
        return JSONResponse(body, status_code=503, headers={"retry-after": "5"})

    async def _events(self, ask: Ask, prepared: Prepared, reply: Reply) -> AsyncIterator[dict[str, str]]:
        """The events of a stream."""
        if ask.kind == "chat":
            yield _event(reply.first())
        try:
            async with contextlib.aclosing(self._decode(prepared)) as parts:
                async for part in parts:
                    if isinstance(part, Finished):
                        yield _event(reply.end(part.reason, part.figures))
                        if (last := reply.usage(_usage(part))) is not None:
                            yield _event(last)
                    elif part.text or ask.rounds:
                        yield _event(reply.more(part.text, _round(part) if ask.rounds else None))
        except GelatoError as fault:
            yield _event(error(str(fault), kind="server_error"))
        except (asyncio.CancelledError, GeneratorExit):
            self.metrics.left()
            raise
        yield {"data": "[DONE]"}

    async def _decode(self, prepared: Prepared) -> AsyncGenerator[Piece | Finished, None]:
        """Decode in one's turn, in a thread; closed early, the decode ends behind its round."""
        async with self.turns():
            parts = self.engine.decode(prepared)
            try:
                async for part in iterate_in_threadpool(parts):
                    if isinstance(part, Finished):
                        self.metrics.finished(part)
                    elif part.is_round:
                        self.metrics.round(part)
                    yield part
            except GelatoError:
                self.metrics.failed()
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(parts.close)


def make_app(
    engine: Engine,
    *,
    model: str,
    api_key: str | None = None,
    hosts: Sequence[str] = ("*",),
    at_once: int = 1,
    most_waiting: int = 32,
) -> Starlette:
    """The application.

    Args:
        engine: decodes.
        model: the name that clients ask for.
        api_key: that they must bring, or None.
        hosts: names by which the server may be called; a page elsewhere that points a name of its own here is refused.
        at_once: requests that are decoded beside each other.
        most_waiting: requests that may wait; more are turned away with 503.
    """
    server = _Server(engine, model, at_once, most_waiting)
    return Starlette(
        routes=[
            Route("/", _page),
            Route("/health", _health),
            Route("/metrics", server.show_metrics),
            Route("/v1/models", _guarded(server.models, api_key)),
            Route("/v1/chat/completions", _guarded(partial(server.complete, kind="chat"), api_key), methods=["POST"]),
            Route("/v1/completions", _guarded(partial(server.complete, kind="text"), api_key), methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers={
            BadRequest: server.refuse,
            Busy: server.turn_away,
            HTTPException: _refuse_path,
            GelatoError: _fail,
            ClientDisconnect: _leave,
        },
    )


def _guarded(handler: _Handler, api_key: str | None) -> _Handler:
    """A handler for who brings the key."""

    async def check(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if api_key is not None and not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
            raise BadRequest("the API key is missing or wrong", code="invalid_api_key", status=401)
        return await handler(request)

    return check


async def _page(request: Request) -> Response:
    page = resources.files("gelato_jax.serving").joinpath("page.html").read_text("utf-8")
    return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refuse_path(request: Request, fault: Any) -> Response:
    line = f"{request.method} {request.url.path}: {fault.detail}"
    return JSONResponse(error(line), status_code=fault.status_code)


async def _fail(request: Request, fault: Any) -> Response:
    return JSONResponse(error(str(fault), kind="server_error"), status_code=502)


async def _leave(request: Request, fault: Any) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _body(request: Request) -> Any:
    """The JSON of a body.

    Raises:
        BadRequest: it is none, or too large.
    """
    # A page elsewhere may post a form, or text, without asking; JSON it may not.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("the content type must be application/json", status=415)
    data = b""
    async for some in request.stream():
        data += some
        if len(data) > MOST_BYTES:
            raise BadRequest(f"the body has more than {MOST_BYTES} bytes: shorten it", status=413)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadRequest("the body is no JSON") from None


def _event(body: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(body, ensure_ascii=False, separators=(",", ":"))}


def _usage(end: Finished) -> dict[str, Any]:
    return usage(end.prompt_tokens, end.new_tokens, end.drafted, end.accepted)


def _round(piece: Piece) -> dict[str, Any]:
    return {
        "accepted_text": piece.accepted,
        "decided_text": piece.decided,
        "drafted": piece.drafted,
        "accepted": piece.accepted_tokens,
        "queue_j": piece.queue_j,
        "energy_j": piece.energy_j,
    }


def serve(app: Starlette, host: str, port: int, *, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered first. In the main thread.

    Args:
        app: see `make_app`.
        host: to listen at.
        port: 0 takes a free one.
        ready: told the port once requests are taken.

    Raises:
        GelatoError: the address cannot be had.
    """
    server = Server(app, host, port, ready)
    # uvicorn raises the signal that ended it again, which would end the process before its exit code is said.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run()
    except SystemExit:  # uvicorn's own way to say that it cannot listen
        raise GelatoError(f"{host}:{port} cannot be listened on: is it in use, and this machine's own?") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Server(uvicorn.Server):
    """uvicorn, which says when and at which port it listens. Arguments as `serve`."""

    def __init__(self, app: Starlette, host: str, port: int, ready: Callable[[int], None]) -> None:
        drain = int(DRAIN_S) + 5  # streams are ended first
        super().__init__(uvicorn.Config(app, host=host, port=port, log_config=None, timeout_graceful_shutdown=drain))
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        """As uvicorn calls it."""
        await super().startup(sockets)
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])
