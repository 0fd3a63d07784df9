"""What is done around other apps, for apps of tornado in tornado's terms.

- trusted proxies: the context of the connection tells their word on client and scheme, as tornado's `xheaders` does;
- `root_path`: routes are looked up without the prefix, and URLs that the app makes have it;
- the access log, and counting: around the connection that a request is answered on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from time import monotonic
from typing import Any

import tornado.http1connection
from tornado import web, websocket
from tornado.httputil import HTTPMessageDelegate

from trapeze_backends.accesslog import write_line
from trapeze_backends.health_stream import Asked, over_a_stream
from trapeze_backends.proxied import Trust, told
from trapeze_backends.queued import noted
from trapeze_backends.tornado_server import Connection, Door
from trapeze_backends.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapeze_backends.board import Waits

__all__ = ["check_health", "make_doors"]

FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


def make_doors(app: Any, sockets: list[socket.socket], worker: Worker, trust: Trust) -> list[Door]:
    """Return tornado's servers for the listeners."""
    if getattr(app, "settings", {}).get("autoreload"):
        _stop_autoreload()
    prefix = "/" + worker.job.root_path.strip("/") if worker.job.root_path.strip("/") else ""
    if prefix:
        _mount(app, prefix)
    watch = _Watch(worker)
    doors: list[Door] = []
    for _ in sockets:
        door = _Native.make(app, worker)
        door.trust, door.watch, door.waits = trust, watch, worker.waits
        doors.append(door)
    _note_websockets()
    return doors


def _stop_autoreload() -> None:
    """It would start another program in this process, which then is no worker any more."""
    from tornado import autoreload

    autoreload._reload_attempted = True
    print("tornado's autoreload does nothing in a worker: reload = true does it", file=sys.stderr, flush=True)


def _mount(app: Any, prefix: str) -> None:
    """Have the app's routes found behind a prefix, whether the proxy passes that on or strips it."""
    find: Any = app.find_handler
    reverse: Any = getattr(app, "reverse_url", None)

    def find_handler(request: Any, **more: Any) -> Any:
        if request.path == prefix or request.path.startswith(prefix + "/"):
            request.path = request.path[len(prefix) :] or "/"
        else:
            request.uri = prefix + request.uri
        return find(request, **more)

    def reverse_url(name: str, *args: Any) -> Any:
        url = reverse(name, *args)
        return prefix + url if url is not None and url.startswith("/") else url

    app.find_handler = find_handler
    if reverse is not None:
        app.reverse_url = reverse_url


def _note_websockets() -> None:
    """Have each door know its open WebSockets: tornado forgets connections that were taken over."""
    plain = websocket.WebSocketHandler.get_websocket_protocol
    closed = websocket.WebSocketHandler.on_ws_connection_close

    def get_websocket_protocol(self: Any) -> Any:
        protocol = plain(self)
        if protocol is not None:
            self.request.connection.door.websockets.add(self)
        return protocol

    def on_ws_connection_close(self: Any, *args: Any) -> None:
        self.request.connection.door.websockets.discard(self)
        closed(self, *args)

    websocket.WebSocketHandler.get_websocket_protocol = get_websocket_protocol
    websocket.WebSocketHandler.on_ws_connection_close = on_ws_connection_close


class _Native(Door):
    """tornado's server of one listener, for its own apps."""

    trust: Trust
    waits: Waits
    watch: _Watch

    def start_request(self, server_conn: Any, request_conn: Any) -> Any:
        return _Message(super().start_request(server_conn, request_conn), request_conn, self)


class _Message(HTTPMessageDelegate):
    """One request as it comes in."""

    def __init__(self, inner: HTTPMessageDelegate, connection: Connection, door: _Native) -> None:
        self.inner = inner
        self.connection = connection
        self.door = door
        self.data_received = inner.data_received
        self.finish = inner.finish

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        door, connection = self.door, self.connection
        context: Any = connection.context
        context._unapply_xheaders()  # of the request before
        if "X-Forwarded-For" in headers or "X-Forwarded-Proto" in headers or "X-Forwarded-Host" in headers:
            _believe(door.trust, connection, headers, door.waits)
        door.begun += 1
        if door.watch.is_on and not getattr(connection.stream, "is_asked", False):
            door.watch.begin(connection, start_line, headers)
        return self.inner.headers_received(start_line, headers)

    def on_connection_close(self) -> None:
        self.inner.on_connection_close()
        if isinstance(self.connection, _Watched):
            self.connection.watch.end(self.connection)


def _believe(trust: Trust, connection: Connection, headers: Any, waits: Waits) -> None:
    context: Any = connection.context
    peer = context.remote_ip if context.address_family in (socket.AF_INET, socket.AF_INET6) else ""
    if getattr(connection.stream, "is_asked", False):
        trust = Trust(["unix"])  # the health request says it of itself
    said = told(trust, peer, *(headers.get(name, "") for name in FORWARDED))
    if said is None:
        return
    if "X-Request-Start" in headers:
        noted(headers["X-Request-Start"], waits)
    client, scheme, host = said
    if client is not None:
        context.remote_ip = client[0]
    if scheme:
        context.protocol = scheme
    if host:
        headers["Host"] = host


class _Watch:
    """Counting, and the access log."""

    def __init__(self, worker: Worker) -> None:
        self._meter = worker.meter()
        self._log = worker.job.access_log
        self.is_on = bool(self._meter or self._log)
        if self.is_on:
            _Watched.watch = self
            tornado.http1connection.HTTP1Connection = _Watched

    def begin(self, connection: Any, start_line: Any, headers: Any) -> None:
        """The head of a request has come."""
        if headers.get("Upgrade", "").lower() == "websocket":
            return
        connection.request = f"{start_line.method} {start_line.path} {start_line.version}"
        connection.asked = headers
        connection.remote_ip = connection.context.remote_ip
        connection.since = monotonic()
        connection.begun = self._meter[0]() if self._meter else 0.0
        connection.is_open = True

    def end(self, connection: _Watched) -> None:
        """Its answer is over, however it has ended."""
        if not connection.is_open:
            return
        connection.is_open = False
        status, size = connection.status, connection.size
        if self._meter:
            self._meter[1](connection.begun, status)
        if self._log:
            client = connection.remote_ip.replace("0.0.0.0", "")  # tornado's word for a Unix peer
            get = connection.asked.get
            agent = get("User-Agent", "")
            write_line(client, connection.request, str(status), size, get("Referer", ""), agent, connection.since)


class _Watched(Connection):
    """A request whose answer tells its status, its size and its end."""

    watch: _Watch
    is_open = False
    status = 500
    size = 0
    asked: Any
    begun: float
    request: str
    remote_ip: str
    since: float

    def write_headers(self, start_line: Any, headers: Any, chunk: bytes | None = None) -> Any:
        self.status, self.size = start_line.code, len(chunk or b"")
        return super().write_headers(start_line, headers, chunk)

    def write(self, chunk: bytes) -> Any:
        self.size += len(chunk)
        return super().write(chunk)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.watch.end(self)

    def end(self) -> None:
        super().end()
        self.watch.end(self)

    def _on_connection_close(self) -> None:
        super()._on_connection_close()
        self.watch.end(self)


async def check_health(door: Door, worker: Worker) -> None:
    """Ask the app's health."""
    asked = Asked()

    async def serve_one(sock: socket.socket) -> Asked:
        door.take(sock, "")
        for connection in door._connections:
            connection.stream.is_asked = True
        return asked

    with _overheard(asked):
        await worker.check_health(over_a_stream(serve_one))


@contextlib.contextmanager
def _overheard(asked: Asked) -> Iterator[None]:
    """Note what handlers raise, and which task they are."""
    execute, log_exception = web.RequestHandler._execute, web.RequestHandler.log_exception

    async def _execute(self: Any, *args: Any, **more: Any) -> None:
        asked.task = asyncio.current_task()
        try:
            await execute(self, *args, **more)
        except BaseException as error:
            asked.error = asked.error or error
            self.request.connection.close()

    def note(self: Any, kind: Any, value: Any, trace: Any) -> None:
        if isinstance(value, web.HTTPError):
            log_exception(self, kind, value, trace)
        else:
            asked.error = value

    web.RequestHandler._execute = _execute
    web.RequestHandler.log_exception = note
    try:
        yield
    finally:
        web.RequestHandler._execute = execute
        web.RequestHandler.log_exception = log_exception
