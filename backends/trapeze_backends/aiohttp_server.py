"""The aiohttp server of a worker: aiohttp's runner and sites, with what is done around other apps done in its terms.

- trusted proxies: the request that the app gets is a clone, with their word on client, scheme and host;
- `root_path`: the app is a sub-application under that prefix, so the URLs that it makes have it too;
- the access log, and counting: around aiohttp's own handling of a request, which ends when the answer is sent.
"""

from __future__ import annotations

import asyncio
import socket
import traceback
from time import monotonic
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server
from yarl import URL

from trapeze_backends.accesslog import write_line
from trapeze_backends.aiohttp_drain import drain
from trapeze_backends.board import Waits
from trapeze_backends.health_stream import Asked, over_a_stream
from trapeze_backends.loading import failure
from trapeze_backends.loops import beat_until_stopped, catch_signals, run_loop, stop_accepting
from trapeze_backends.proxied import Trust, told
from trapeze_backends.queued import noted
from trapeze_backends.worker import Worker

__all__ = ["serve"]

FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
START = "X-Request-Start"
OURS = ("loop", "keepalive_timeout")


def serve(app: Any, sockets: list[socket.socket], worker: Worker, trust: Trust, *, uvloop: bool) -> None:
    """Serve until the worker is asked to stop, then drain."""
    run_loop(lambda: _main(app, sockets, worker, trust), uvloop=uvloop)


async def _main(app: Any, sockets: list[socket.socket], worker: Worker, trust: Trust) -> None:
    asked = asyncio.Event()
    catch_signals(worker, asked.set)
    job = worker.job
    app.on_response_prepare.append(_noting(worker))
    settings = {name: value for name, value in job.options.items() if name not in OURS}
    keepalive = job.keepalive if job.keepalive is not None else job.options.get("keepalive_timeout")
    if keepalive is not None:
        settings["keepalive_timeout"] = keepalive
    prefix = "/" + job.root_path.strip("/") if job.root_path.strip("/") else ""
    runner = Runner(_mounted(app, prefix) if prefix else app, worker, trust, prefix, settings)
    try:
        await runner.setup()
    except (Exception, SystemExit) as error:
        reason = failure("the app's start-up failed", error)
        await _clean_up(runner)
        raise reason from None
    await worker.check_health(over_a_stream(runner.serve_one))
    if not worker.stopping:
        for sock, listener in zip(sockets, job.listeners, strict=True):
            await web.SockSite(runner, sock, backlog=listener.backlog).start()
        worker.ready()
        await beat_until_stopped(worker, asked, runner.counts)
    await stop_accepting([site._server for site in runner.sites], sockets)
    await drain(runner, worker)
    await _clean_up(runner)


async def _clean_up(runner: Runner) -> None:
    try:
        await runner.cleanup()
    except Exception as error:
        traceback.print_exception(type(error), error, error.__traceback__)


def _mounted(app: Any, prefix: str) -> Any:
    """An app whose only part is `app`, under a prefix."""
    outer = web.Application(logger=app.logger, handler_args=app._handler_args)
    for name in ("_client_max_size", "_client_max_fields", "_debug"):
        if hasattr(app, name):
            setattr(outer, name, getattr(app, name))
    outer.add_subapp(prefix, app)
    return outer


def _noting(worker: Worker) -> Any:
    async def note(request: Any, response: Any) -> None:
        """The head of an answer is about to be sent: remember whose it is, and say that the connection closes."""
        request.protocol.answer = response
        if worker.stopping and not isinstance(response, web.WebSocketResponse):
            response.force_close()
            response.headers["Connection"] = "close"

    return note


class Runner(web.AppRunner):
    """aiohttp's, with our kind of connection."""

    __slots__ = ("_is_shut_down", "_prefix", "_trust", "_worker")

    def __init__(self, app: Any, worker: Worker, trust: Trust, prefix: str, settings: dict[str, Any]) -> None:
        # Waiting is done before its cleanup; what is left by then is cancelled.
        super().__init__(app, access_log=None, shutdown_timeout=0.1, **settings)
        self._worker = worker
        self._trust = trust
        self._prefix = prefix
        self._is_shut_down = False

    async def _make_server(self) -> Server:
        server = await super()._make_server()
        log, meter = self._worker.job.access_log, self._worker.meter()
        handler = _noted(log, meter) if log or meter else Handler
        return _Server(
            server, handler, _request_factory(server.request_factory, self._trust, self._prefix, self._worker.waits)
        )

    def counts(self) -> tuple[int, int]:
        """As `Worker.beat` takes them."""
        server = self.server
        assert server is not None
        return server.requests_count, sum(handler._request_in_progress for handler in server.connections)

    async def shutdown(self) -> None:
        """The app's `on_shutdown`, once: the drain has had it called already."""
        if not self._is_shut_down:
            self._is_shut_down = True
            await super().shutdown()

    async def serve_one(self, sock: socket.socket) -> Asked:
        """Serve the health request that comes on this socket."""
        server = self.server
        assert isinstance(server, _Server)
        asked = Asked()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: _Asking(asked, server, loop=loop, **server._kwargs), sock)
        return asked


class Handler(RequestHandler):
    """One connection, which can tell whether it is at rest.

    Attributes:
        answer: whose head was sent last.
        peer: address of the other end, "" for a Unix peer.
    """

    answer: Any = None
    peer = ""
    _is_midst = False

    def connection_made(self, transport: Any) -> None:
        name = transport.get_extra_info("peername")
        if type(name) is tuple:
            self.peer = name[0]
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        count, current = self._request_count, self._current_request
        between = self._waiter is not None or (current is not None and current.content.is_eof())
        super().data_received(data)
        if count != self._request_count:
            self._is_midst = False
        elif between:
            self._is_midst = True  # of a head: no request has come out of it

    @property
    def is_idle(self) -> bool:
        """Does it wait for a request of which nothing has come?"""
        return self._waiter is not None and not self._waiter.done() and not self._is_midst


class _Asking(Handler):
    """The connection of the health request."""

    def __init__(self, asked: Asked, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._asked = asked

    async def _handle_request(self, *args: Any) -> Any:
        self._asked.task = asyncio.current_task()
        try:
            return await super()._handle_request(*args)
        except BaseException as error:
            self._asked.error = self._asked.error or error
            raise ConnectionResetError from None  # aiohttp then ends the connection without a word

    def log_exception(self, *args: Any, exc_info: Any = None, **more: Any) -> None:
        """What the app has raised is told as the reason of the failed start."""
        self._asked.error = exc_info if isinstance(exc_info, BaseException) else None


def _noted(log: bool, meter: Any) -> type[Handler]:
    """Return the class of connections whose requests are written to the log, or counted, or both."""
    begin, end = meter or (lambda: 0.0, lambda begun, status: None)

    class Noted(Handler):
        """See `_noted`."""

        async def _handle_request(self, request: Any, *more: Any) -> Any:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await super()._handle_request(request, *more)
            line = _Line(request) if log else None
            begun, status = begin(), 500
            try:
                outcome = await super()._handle_request(request, *more)
                status = outcome[0].status
                return outcome
            finally:
                end(begun, status)
                if line is not None:
                    line.write(request, self.answer, status)

    return Noted


class _Line:
    """A line of the access log."""

    def __init__(self, request: Any) -> None:
        self.began = monotonic()
        self.size = 0
        request.writer._on_chunk_sent = self._count

    async def _count(self, chunk: Any) -> None:
        self.size += len(chunk)

    def write(self, request: Any, answer: Any, status: int) -> None:
        """The answer is over."""
        size = self.size
        if isinstance(answer, web.FileResponse) and request.method != "HEAD":
            size = answer.content_length or 0  # the kernel has sent it
        get = request.headers.get
        version = f"HTTP/{request.version.major}.{request.version.minor}"
        line = f"{request.method} {request.raw_path} {version}"
        write_line(request.remote or "", line, str(status), size, get("Referer", ""), get("User-Agent", ""), self.began)


class _Server(Server):
    """aiohttp's factory of connections, with another class for them."""

    def __init__(self, base: Server, handler: type[Handler], request_factory: Any) -> None:
        super().__init__(
            base.request_handler,
            request_factory=request_factory,
            handler_cancellation=getattr(base, "handler_cancellation", False),
            loop=base._loop,
            **base._kwargs,
        )
        self._handler = handler

    def __call__(self) -> RequestHandler:
        return self._handler(self, loop=self._loop, **self._kwargs)


def _request_factory(plain: Any, trust: Trust, prefix: str, waits: Waits) -> Any:
    def make(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        request = plain(message, payload, protocol, writer, task)
        protocol.answer = None
        changes: dict[str, Any] = {}
        headers = message.headers
        if START in headers or any(name in headers for name in FORWARDED):
            changes = _believed(trust, protocol, headers, waits)
        if prefix:
            path = message.url.raw_path
            if path == prefix or not path.startswith(prefix + "/"):
                rest = path.removeprefix(prefix) if path == prefix else path
                query = message.url.raw_query_string
                changes["rel_url"] = URL(f"{prefix}{rest or '/'}{'?' + query if query else ''}", encoded=True)
        return request.clone(**changes) if changes else request

    return make


def _believed(trust: Trust, protocol: Handler, headers: Any, waits: Waits) -> dict[str, Any]:
    said = told(trust, protocol.peer, *(",".join(headers.getall(name, ())) for name in FORWARDED))
    if said is None:
        return {}
    if START in headers:
        noted(headers[START], waits)
    client, scheme, host = said
    changes: dict[str, Any] = {"scheme": scheme} if scheme else {}
    if client is not None:
        changes["remote"] = client[0]
    if host:
        changes["host"] = host
    return changes
