"""WSGI apps on tornado: its WSGIContainer sends nothing before an answer is whole, and nothing at all of an error."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from tornado.httputil import HTTPHeaders, ResponseStartLine, format_timestamp

from trapeze_backends.tornado_server import Door
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app
from trapeze_backends.wsgi_threads import THREADS, Pool, Sink, make_environ, respond

__all__ = ["make_wsgi_doors"]


def make_wsgi_doors(app: Any, sockets: list[socket.socket], worker: Worker) -> tuple[Pool, list[Door]]:
    """Return the pool, and tornado's servers for the listeners."""
    pool = Pool(worker.job.threads or THREADS)
    return pool, [Door.make(_Callback(adapt_app(app, sock, worker, heads=True), pool), worker) for sock in sockets]


class _Callback:
    """What tornado calls with each request."""

    def __init__(self, app: Any, pool: Pool) -> None:
        self._app = app
        self._pool = pool
        self._tasks: set[asyncio.Task[None]] = set()
        """Only a reference keeps a task alive."""

    def __call__(self, request: Any) -> None:
        path, _, query = request.uri.partition("?")
        raw = path.encode("latin-1")
        environ = make_environ(
            request.method, raw, query, request.version, request.headers.get_all(), request.body or b""
        )
        environ["REMOTE_ADDR"] = request.remote_ip
        request.connection.door.begun += 1
        task = asyncio.ensure_future(respond(self._pool, self._app, environ, _Sink(request)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Sink(Sink):
    """Sends by tornado's connection."""

    def __init__(self, request: Any) -> None:
        self._connection = request.connection
        self._is_head = request.method == "HEAD"
        self._is_old = request.version == "HTTP/1.0"
        self._has_body = True

    async def start(self, status: str, headers: Any) -> None:
        """The head."""
        fields = HTTPHeaders()
        for name, value in headers:
            fields.add(name, value)
        if "Date" not in fields:
            fields["Date"] = format_timestamp(time.time())  # RFC 9110, section 6.6.1
        code, _, reason = status.partition(" ")
        self._has_body = not self._is_head and code[:1] != "1" and code not in ("204", "304")
        if self._is_old and "Content-Length" not in fields:
            self._connection._disconnect_on_finish = True  # nothing else ends the body
        self.started = True
        self._connection.write_headers(ResponseStartLine("HTTP/1.1", int(code), reason), fields)

    async def write(self, piece: bytes) -> None:
        """A piece of the body."""
        if self._has_body and piece:
            await self._connection.write(piece)

    async def finish(self) -> None:
        """The end."""
        self._connection.finish()

    def abort(self) -> None:
        """Cut the connection."""
        self._connection.close()
