"""WSGI apps on hypercorn: its own wrapper makes a 500 of an answer without a body and cannot stream."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from hypercorn.config import Config

from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app
from trapeze_backends.wsgi_threads import THREADS, Pool, Sink, make_environ, respond

__all__ = ["make_apps"]


def make_apps(app: Any, sockets: list[socket.socket], worker: Worker, config: Config) -> tuple[Pool, list[Any]]:
    """Return the pool, and for each socket an ASGI app that has `app` answer in it."""
    pool = Pool(worker.job.threads or THREADS)
    return pool, [_asgi(adapt_app(app, sock, worker, heads=True), pool, config.wsgi_max_body_size) for sock in sockets]


def _asgi(app: Any, pool: Pool, limit: int) -> Any:
    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
            return
        sink = _Sink(receive, send)
        body = await _read(receive, limit)
        if body is None:
            await sink.start("413 Content Too Large", [("Content-Length", "0")])
            await sink.finish()
            return
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        query = scope["query_string"].decode("latin-1")
        version = f"HTTP/{scope['http_version']}"
        environ = make_environ(scope["method"], scope["raw_path"], query, version, headers, body)
        environ["wsgi.url_scheme"] = scope["scheme"]
        client = scope.get("client")
        if client:
            environ["REMOTE_ADDR"] = client[0]
            environ["REMOTE_PORT"] = str(client[1])
        try:
            await respond(pool, app, environ, sink)
        finally:
            sink.close()

    return asgi


async def _read(receive: Any, limit: int) -> bytes | None:
    """The whole body; None if it is longer than it may be."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


class _Sink(Sink):
    """Sends by ASGI. hypercorn takes what is sent to a client that has gone, and says nothing: without asking it, an
    answer without an end would go on for nobody, and keep its thread."""

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        self._written = 0
        self._gone: asyncio.Task[Any] | None = None
        """Ends when the client has gone."""

    async def start(self, status: str, headers: Any) -> None:
        """The head."""
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self.started = True
        await self._send({"type": "http.response.start", "status": int(status[:3]), "headers": raw})

    async def write(self, piece: bytes) -> None:
        """A piece of the body; ConnectionError if nobody is there for it."""
        self._written += 1
        if self._written == 2:  # most answers have one piece: they do without
            self._gone = asyncio.ensure_future(self._receive())
        if self._gone is not None and self._gone.done():
            raise ConnectionResetError("the client has gone")
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self) -> None:
        """The last piece, which is empty."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """The request is over."""
        if self._gone is not None:
            self._gone.cancel()

    def abort(self) -> None:
        """hypercorn cuts the connection of an answer that its app has left unfinished."""
