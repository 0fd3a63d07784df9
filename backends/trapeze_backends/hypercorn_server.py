"""The hypercorn server of a worker: hypercorn's connections and protocols, our accepting, start and stop.

How it leaves: what was accepted is served, with `Connection: close`, or after a GOAWAY that lets HTTP/2 clients finish;
what is idle or endless is closed after `drain_grace`, unless bytes wait to be read.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h11
import hypercorn.protocol
from hypercorn.asyncio.statsd import StatsdLogger
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol

from trapeze_backends.exchanges import Exchanges
from trapeze_backends.lifespan import Lifespan
from trapeze_backends.loops import TICK, Acceptor, beat_until_stopped, catch_signals, run_loop, unread
from trapeze_backends.unixnames import unix_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["make_config", "serve"]

GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00%s\x00\x00\x00\x00"
"""A frame that says: no error, but no new streams after this one (RFC 9113, section 6.8)."""

EVERY = 2**31 - 1
"""The last stream that a GOAWAY names while it is only announced that the connection will end."""

MOST = (1 << 31) - 1
"""Bytes of a request to a WSGI app; hypercorn's own limit is 16 MiB. How long one may be is the proxy's affair, and the
app's."""
LIMIT = 2**16
"""Bytes that wait in a reader."""


def make_config(job: Job) -> Config:
    """Return hypercorn's configuration.

    Raises:
        Exception: it does not take the options.
    """
    settings: dict[str, Any] = {"loglevel": "WARNING"}
    if job.keepalive:
        settings["keep_alive_timeout"] = job.keepalive
    elif job.keepalive is not None:
        settings["keep_alive_max_requests"] = 1  # a time of 0 would end connections that have not asked anything yet
    settings["wsgi_max_body_size"] = MOST
    config = Config.from_mapping({**settings, **job.options})
    config.set_statsd_logger_class(StatsdLogger)
    assert config.log is not None  # made by being looked at: it reads its own configuration
    return config


def serve(app: Any, sockets: list[socket.socket], worker: Worker, config: Config, *, uvloop: bool) -> None:
    """Serve until the worker is asked to stop, then drain."""
    run_loop(lambda: _Server(app, sockets, worker, config).main(), uvloop=uvloop)


class _Server:
    """All connections of a worker."""

    def __init__(self, app: Any, sockets: list[socket.socket], worker: Worker, config: Config) -> None:
        self.worker = worker
        self.config = config
        self.connections: dict[asyncio.Task[None], _Connection] = {}
        self.context = WorkerContext(None)
        self.exchanges = Exchanges(worker)
        self.lifespan = Lifespan(app)
        self.app = app
        self.sockets = sockets
        self.ssl = config.create_ssl_context()
        self.opening: set[asyncio.Task[Any]] = set()

    async def main(self) -> None:
        """The whole life."""
        worker, asked = self.worker, asyncio.Event()
        catch_signals(worker, asked.set)
        if worker.interface == "asgi":
            await self.lifespan.start()
            await worker.check_health(self.app, self.lifespan.state)
        hypercorn.protocol.H2Protocol = _H2
        acceptor = self.acceptor = self._acceptor()
        if not worker.stopping:
            acceptor.start()
            worker.ready()
            await beat_until_stopped(worker, asked, self.exchanges.counts)
        acceptor.stop()
        await self._drain()
        await self.lifespan.stop(worker.job.patience)

    def _acceptor(self) -> Acceptor:
        names = unix_names(self.sockets, self.worker.job.listeners)
        unix = [names.get(sock.getsockname()) for sock in self.sockets]
        if self.worker.interface == "asgi":
            self.apps = [self.exchanges.around(self.app, (name, None) if name else None) for name in unix]
            return Acceptor(self.sockets, self._take, share=self.worker.share, connections=self._count)
        from trapeze_backends.hypercorn_wsgi import make_apps

        pool, apps = make_apps(self.app, self.sockets, self.worker, self.config)
        self.apps = [self.exchanges.around(app) for app in apps]
        acceptor = Acceptor(
            self.sockets,
            self._take,
            lambda: pool.has_room,
            lambda: pool.finished,
            share=self.worker.share,
            connections=self._count,
        )
        pool.freed = acceptor.look
        return acceptor

    def _count(self) -> int:
        return len(self.connections) + len(self.opening)

    def _take(self, place: int, connection: socket.socket, address: Any) -> None:
        task = asyncio.ensure_future(self._open(place, connection))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def _open(self, place: int, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        more = {"ssl_handshake_timeout": self.config.ssl_handshake_timeout} if self.ssl else {}
        with contextlib.suppress(OSError):  # gone again, or no TLS
            await loop.connect_accepted_socket(lambda: self._protocol(place), connection, ssl=self.ssl, **more)

    def _protocol(self, place: int) -> asyncio.StreamReaderProtocol:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            loop = asyncio.get_running_loop()
            task: Any = asyncio.current_task()
            app = _Wrapped(self.apps[place])
            made = _Connection(app, loop, self.config, self.context, self.lifespan.state, reader, writer)
            self.connections[task] = made
            try:
                await made
            finally:
                del self.connections[task]
                self.acceptor.left()

        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=LIMIT), connected)

    async def _drain(self) -> None:
        """Return when nothing is left, or when the time is over."""
        loop, job = asyncio.get_running_loop(), self.worker.job
        start = loop.time()
        while self.connections or self.exchanges.live or self.opening:
            waited = loop.time() - start
            if waited >= job.patience:
                await self._give_up()
                return
            is_over = waited >= job.drain_grace
            if is_over:
                await self.exchanges.end_endless()
            for connection in list(self.connections.values()):
                await connection.announce(even_if_busy=is_over)
                if is_over and connection.is_idle():
                    await connection._initiate_server_close()
            await asyncio.sleep(TICK)

    async def _give_up(self) -> None:
        tasks = [*self.exchanges.cancel(), *self.connections, *self.opening]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)


class _Wrapped:
    """An ASGI app as hypercorn calls it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> Any:
        return self.app(scope, receive, send)


class _Connection(TCPServer):
    """hypercorn's connection, which can tell whether it is at rest."""

    _is_announced = False
    _is_over = False

    def _speaks(self) -> Any:
        wrapper = getattr(self, "protocol", None)  # not there before it runs
        return getattr(wrapper, "protocol", None)

    def is_idle(self) -> bool:
        """Nothing of a request has come, or waits to be read."""
        speaks = self._speaks()
        waiting: Any = getattr(self.reader, "_buffer", None)
        if speaks is None or waiting or unread(self.writer):
            return False
        if isinstance(speaks, H2Protocol):
            return not speaks.streams
        # Not by its stream, which is there only some turns of the loop after the head has been parsed.
        return speaks.connection.their_state is h11.IDLE and not speaks.connection.trailing_data[0]

    async def announce(self, *, even_if_busy: bool) -> None:
        """Tell an HTTP/2 client that the connection will end; requests that it has sent meanwhile are still served.

        Not while it has requests under way, if that can be helped: h2, which clients in Python use, understands no
        answer that comes after this.
        """
        speaks = self._speaks()
        if isinstance(speaks, H2Protocol) and not self._is_announced and (even_if_busy or not speaks.streams):
            self._is_announced = True
            await self._goaway(EVERY)

    async def _read_data(self) -> None:
        """Then end the wait for its next request: it would hold a closed connection for `keep_alive_timeout`."""
        await super()._read_data()
        self._is_over = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send; and see that a connection which has had its number of requests comes to its end."""
        if self._is_over and isinstance(event, Updated):
            return
        await super().protocol_send(event)
        if isinstance(event, Updated) and event.idle and getattr(self._speaks(), "is_spent", False):
            await self.announce(even_if_busy=False)

    async def _goaway(self, last: int) -> None:
        if not self.writer.is_closing():
            await self.protocol_send(RawData(data=GOAWAY % last.to_bytes(4, "big")))

    async def _initiate_server_close(self) -> None:
        speaks = self._speaks()
        if isinstance(speaks, H2Protocol):
            await self._goaway(speaks.connection.highest_inbound_stream_id)
        await super()._initiate_server_close()


class _H2(H2Protocol):
    """hypercorn ends a connection after `keep_alive_max_requests` in a way that loses the answer of the last one, and
    of all others that are under way: h2's own GOAWAY allows no answer afterwards."""

    def __init__(self, app: Any, config: Config, *more: Any, **named: Any) -> None:
        super().__init__(app, _Unlimited(config), *more, **named)
        self._limit = config.keep_alive_max_requests

    @property
    def is_spent(self) -> bool:
        """Has it had its number of requests?"""
        return bool(self.keep_alive_requests >= self._limit)


class _Unlimited:
    """A configuration without that limit."""

    keep_alive_max_requests = float("inf")

    def __init__(self, config: Config) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)
