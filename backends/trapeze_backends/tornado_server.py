"""The tornado server of a worker: tornado's connections, our accepting, start and stop.

How it leaves: what was accepted is served, with `Connection: close`; at `drain_grace` WebSockets are closed with 1012
(service restart), answers without an end (`endless`) are ended, and so are connections on which nothing has come.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import tornado.http1connection
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from trapeze_backends.endless import is_endless, unread_bytes
from trapeze_backends.loops import TICK, Acceptor, beat_until_stopped, catch_signals, end_loop
from trapeze_backends.proxied import Trust
from trapeze_backends.worker import Worker

__all__ = ["Connection", "Door", "serve"]

DEAF = 1.0
"""Seconds after which an app that was told to end its answer, and has not, is cancelled."""


def serve(app: Any, sockets: list[socket.socket], worker: Worker, trust: Trust, *, is_forked: bool) -> None:
    """Serve until the worker is asked to stop, then drain."""
    # Its access log is written by default from status 400 on; it goes to whom the app sends it, and not to stderr.
    logging.getLogger("tornado.access").addHandler(logging.NullHandler())
    loop = _loop(is_forked)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_main(app, sockets, worker, trust))
    finally:
        end_loop(loop)


def _loop(is_forked: bool) -> asyncio.AbstractEventLoop:
    """The loop that the app has scheduled things on while it was imported, if it has; not one from before a fork,
    which is shared with all others that were forked."""
    if IOLoop._ioloop_for_asyncio and not is_forked:
        current: Any = IOLoop.current(instance=False)
        if current is not None and not current.asyncio_loop.is_closed():
            made: asyncio.AbstractEventLoop = current.asyncio_loop
            return made
    return asyncio.new_event_loop()


async def _main(app: Any, sockets: list[socket.socket], worker: Worker, trust: Trust) -> None:
    asked = asyncio.Event()
    catch_signals(worker, asked.set)
    tornado.http1connection.HTTP1Connection = Connection
    Connection.worker = worker
    pool: Any = None
    if worker.interface == "wsgi":
        from trapeze_backends.tornado_wsgi import make_wsgi_doors

        pool, doors = make_wsgi_doors(app, sockets, worker)
    else:
        from trapeze_backends.tornado_native import check_health, make_doors

        doors = make_doors(app, sockets, worker, trust)
        await check_health(doors[0], worker)
    acceptor = _acceptor(sockets, doors, pool)
    if not worker.stopping:
        acceptor.start()
        worker.ready()
        await beat_until_stopped(worker, asked, lambda: (sum(d.begun for d in doors), sum(d.busy for d in doors)))
    acceptor.stop()
    await _drain(doors, worker)


def _acceptor(sockets: list[socket.socket], doors: list[Door], pool: Any) -> Acceptor:
    def take(place: int, connection: socket.socket, address: Any) -> None:
        doors[place].take(connection, address)

    if pool is None:
        return Acceptor(sockets, take)
    acceptor = Acceptor(sockets, take, lambda: pool.has_room, lambda: pool.finished)
    pool.freed = acceptor.look
    return acceptor


MOST = (1 << 31) - 1
"""Bytes of a request; tornado's own limit is 100 MB. How long one may be is the proxy's affair, and the app's."""


class Door(HTTPServer):
    """tornado's server of one listener.

    Attributes:
        begun: requests so far.
        websockets: handlers of those that are open.
    """

    begun = 0

    def set_up(self, worker: Worker) -> Door:
        """tornado calls no `__init__`."""
        self.worker = worker
        self.websockets: set[Any] = set()
        self.current: dict[Any, Connection] = {}
        """The exchange that each connection is at: the request that it waits for, or serves."""
        return self

    @classmethod
    def make(cls, callback: Any, worker: Worker) -> Door:
        """Return one, with the settings of the job."""
        settings = {"max_body_size": MOST, "max_buffer_size": MOST, **worker.job.options}
        if worker.job.keepalive is not None:
            settings["idle_connection_timeout"] = worker.job.keepalive
            settings["no_keep_alive"] = worker.job.keepalive == 0
        return cls(callback, **settings).set_up(worker)

    @property
    def busy(self) -> int:
        """Requests under way."""
        return sum(exchange.has_begun for exchange in self.current.values())

    def take(self, connection: socket.socket, address: Any) -> None:
        """Serve a connection that has been accepted."""
        stream = IOStream(connection, max_buffer_size=self.max_buffer_size, read_chunk_size=self.read_chunk_size)
        self.handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: Any) -> Any:
        """tornado waits for the next request of a connection."""
        self.current[server_conn] = request_conn
        request_conn.door = self
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: Any) -> None:
        """It is gone, or a WebSocket now."""
        self.current.pop(server_conn, None)
        super().on_close(server_conn)


class Connection(tornado.http1connection.HTTP1Connection):
    """One request of a connection and its answer."""

    worker: Worker
    door: Any = None
    is_endless = False
    is_ended = False

    @property
    def has_begun(self) -> bool:
        """Has the whole head come?"""
        return self._request_start_line is not None

    @property
    def is_idle(self) -> bool:
        """Has nothing come?"""
        stream = self.stream
        # A head that has come is out of the buffer some turns of the loop before it is parsed: then nothing is read.
        if self.has_begun or stream is None or stream.closed() or not stream.reading():
            return False
        return not stream._read_buffer_size and not unread_bytes(stream.fileno())

    def read_response(self, delegate: Any) -> Any:
        """Read the request. tornado would also run one that has come behind an answer which said that the connection
        closes, and which its client sends again."""
        if not self.stream.closed():
            return super().read_response(delegate)
        over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        over.set_result(False)
        return over

    def write_headers(self, start_line: Any, headers: Any, chunk: bytes | None = None) -> Any:
        """While draining, say that the connection closes, and close it then."""
        if self.is_ended:
            return self._gone()
        if self.worker.stopping:
            self._disconnect_on_finish = True
            asked = self._request_headers
            if asked is not None and "Connection" in asked:
                del asked["Connection"]  # or HTTP/1.0 clients are promised that it is kept
        self.is_endless = is_endless(headers.get_all())
        return super().write_headers(start_line, headers, chunk)

    def write(self, chunk: bytes) -> Any:
        """After the end the app finds a closed stream."""
        return self._gone() if self.is_ended else super().write(chunk)

    def finish(self) -> None:
        """The same."""
        if not self.is_ended:
            super().finish()

    def _gone(self) -> Any:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(tornado.iostream.StreamClosedError())
        future.exception()  # nobody needs to look
        return future

    def end(self) -> None:
        """An orderly end for the client, and the news of a closed connection for the app."""
        told = self._close_callback
        self._disconnect_on_finish = True
        if self._expected_content_remaining:
            self.close()  # it has a length
        else:
            super().finish()
        self.is_ended = True
        if told is not None:
            told()


async def _drain(doors: list[Door], worker: Worker) -> None:
    """Return when nothing is left, or when the time is over."""
    loop, job = asyncio.get_running_loop(), worker.job
    start = loop.time()
    told: dict[Any, float] = {}
    while any(door._connections or door.websockets for door in doors):
        waited = loop.time() - start
        if waited >= job.patience:
            return
        if waited >= job.drain_grace:
            for door in doors:
                _look(door, told, loop.time())
            _cancel_deaf(told, loop.time())
        await asyncio.sleep(TICK)


def _look(door: Door, told: dict[Any, float], now: float) -> None:
    """End what has no end, close what is idle."""
    for exchange in [each for each in door.current.values() if each not in told]:
        if exchange.is_idle:
            exchange.stream.close()
        elif exchange.is_endless:
            told[exchange] = now
            exchange.end()
    for handler in [each for each in door.websockets if each not in told]:
        told[handler] = now
        handler.close(1012, "service restart")


def _cancel_deaf(told: dict[Any, float], now: float) -> None:
    """Cancel handlers of answers that were ended a while ago, and which still run."""
    deaf = {exchange for exchange, since in told.items() if now >= since + DEAF}
    for task in asyncio.all_tasks() if deaf else ():
        frame = getattr(task.get_coro(), "cr_frame", None)
        handler = frame.f_locals.get("self") if frame is not None else None
        if getattr(getattr(handler, "request", None), "connection", None) in deaf:
            task.cancel()
