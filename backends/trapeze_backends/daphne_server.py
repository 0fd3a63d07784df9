"""The daphne server of a worker: daphne's protocols, our accepting, start and stop. Importing it takes the reactor.

How it leaves: what was accepted is served, with `Connection: close`; what is idle or endless is closed after
`drain_grace`, unless bytes wait to be read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from typing import Any

import daphne.server
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import asyncioreactor
from twisted.logger import STDLibLogObserver, globalLogBeginner
from twisted.web.http import HTTPChannel

from trapeze_backends.contract import StartError
from trapeze_backends.endless import unread_bytes
from trapeze_backends.exchanges import Exchanges
from trapeze_backends.lifespan import Lifespan
from trapeze_backends.loops import TICK, Acceptor, beat_until_stopped, catch_signals, end_loop
from trapeze_backends.unixnames import unix_names
from trapeze_backends.worker import Worker

__all__ = ["serve"]

logger = logging.getLogger("daphne.server")

WEBSOCKET = {
    "autoPingTimeout": "ping_timeout",
    "openHandshakeTimeout": "websocket_handshake_timeout",
    "maxMessagePayloadSize": "websocket_max_message_size",
    "maxFramePayloadSize": "websocket_max_frame_size",
}
"""Settings of autobahn, and which of daphne's they are; not each version has all."""

BARE = (204, 304)
"""Answers without a body."""
IDLE = 60.0
"""Seconds that Twisted keeps an idle connection."""


def serve(app: Any, sockets: list[socket.socket], worker: Worker, *, is_shared: bool) -> None:
    """Serve until the worker is asked to stop, then drain.

    Args:
        app: ASGI 3.
        sockets: listening and non-blocking.
        worker: the worker.
        is_shared: the app has had daphne take its reactor before this process was forked: take another.
    """
    if is_shared:
        _take_another_reactor()
    reactor: Any = daphne.server.reactor
    loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
    asyncio.set_event_loop(loop)
    server = _Server(app, worker, reactor)
    main = loop.create_task(server.main(sockets))
    main.add_done_callback(lambda task: reactor.stop())
    reactor.run(installSignalHandlers=False)
    try:
        if not main.cancelled():
            main.result()
    finally:
        end_loop(loop)


def _take_another_reactor() -> None:
    """An event loop from before a fork is one and the same for all who were forked."""
    loop = asyncio.new_event_loop()
    if "ASGI_THREADS" in os.environ:
        from concurrent.futures import ThreadPoolExecutor

        loop.set_default_executor(ThreadPoolExecutor(max_workers=int(os.environ["ASGI_THREADS"])))
    del sys.modules["twisted.internet.reactor"]
    asyncioreactor.install(loop)
    daphne.server.twisted_loop = loop
    daphne.server.reactor = sys.modules["twisted.internet.reactor"]


class _Server(daphne.server.Server):
    """daphne's: its protocols ask it for applications."""

    def __init__(self, app: Any, worker: Worker, reactor: Any) -> None:
        self.exchanges = Exchanges(worker)
        # It wants to hear of an endpoint; none of it is used, as its `run` is not.
        try:
            super().__init__(self.exchanges.around(app), ["none"], signal_handlers=False, **worker.job.options)
        except TypeError as error:
            raise StartError(f"options: this daphne does not take them: {error}") from None
        self.app = app
        self.worker = worker
        self.reactor = reactor
        self.lifespan = Lifespan(app)
        self.open: dict[Any, _Channel | None] = {}
        """All transports; with their channels, until WebSockets take them over."""
        self.names: dict[Any, str] = {}

    async def main(self, sockets: list[socket.socket]) -> None:
        """The whole life."""
        worker, asked = self.worker, asyncio.Event()
        catch_signals(worker, asked.set)
        self.names = unix_names(sockets, worker.job.listeners)
        self._set_up()
        await self.lifespan.start()
        await worker.check_health(self.app, self.lifespan.state)
        acceptor = Acceptor(sockets, self._take)
        if not worker.stopping:
            acceptor.start()
            worker.ready()
            await beat_until_stopped(worker, asked, self.exchanges.counts)
        acceptor.stop()
        await self._drain()
        await self.lifespan.stop(worker.job.patience)

    def _set_up(self) -> None:
        """As daphne's `run`, without sockets."""
        self.connections: dict[Any, dict[str, Any]] = {}
        self.http_factory = _Factory(self)
        self.ws_factory = _WebSocketFactory(self, server=self.server_name)
        settings = {name: getattr(self, own) for name, own in WEBSOCKET.items() if hasattr(self, own)}
        self.ws_factory.setProtocolOptions(allowNullOrigin=True, **settings)
        observer = STDLibLogObserver(__name__) if self.verbosity > 1 else (lambda _: None)
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
        self.reactor.callLater(1, self.application_checker)
        self.reactor.callLater(2, self.timeout_checker)

    def _take(self, place: int, connection: socket.socket, address: Any) -> None:
        try:
            # Twisted duplicates the descriptor.
            self.reactor.adoptStreamConnection(connection.fileno(), connection.family, self.http_factory)
        except OSError:
            pass  # gone again
        finally:
            connection.close()

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Make up for what daphne leaves out of the scope, and see to the end of the app's task at once."""
        scope["state"] = dict(self.lifespan.state)
        scope["root_path"] = ""  # daphne believes any client's Daphne-Root-Path
        scope.setdefault("scheme", "ws")
        if scope.get("server") is None:
            name = getattr(protocol.transport.getHost(), "name", None)
            scope["server"] = (self.names.get(os.fsdecode(name), os.fsdecode(name)), None) if name else None
        queue = super().create_application(protocol, scope)
        details = self.connections.get(protocol, {})
        task = details.get("application_instance")
        if task is not None:
            task.add_done_callback(lambda task: self._over(protocol, task))
        return queue

    def _over(self, protocol: Any, task: asyncio.Task[Any]) -> None:
        """The app has come to its end."""
        details = self.connections.get(protocol)
        if details is None or details.get("application_instance") is not task:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("Exception inside application: %s", error, exc_info=error)
        del details["application_instance"]
        if "disconnected" in details:
            del self.connections[protocol]
        else:
            _finish(protocol, error)

    async def _drain(self) -> None:
        """Return when nothing is left, or when the time is over."""
        loop, job = asyncio.get_running_loop(), self.worker.job
        start = loop.time()
        while self.open or self.exchanges.live:
            waited = loop.time() - start
            if waited >= job.patience:
                tasks = list(self.exchanges.cancel())
                if tasks:
                    await asyncio.wait(tasks, timeout=1.0)
                for transport in list(self.open):
                    transport.abortConnection()
                return
            if waited >= job.drain_grace:
                await self.exchanges.end_endless()
                for channel in [channel for channel in self.open.values() if channel is not None]:
                    if channel.is_idle:
                        channel.loseConnection()
            await asyncio.sleep(TICK)


def _finish(protocol: Any, error: BaseException | None) -> None:
    """What the app has left unfinished: daphne would leave the client waiting for ever."""
    if isinstance(protocol, WebRequest):
        if protocol._response_started:
            protocol.channel.loseConnection()  # without the end of the answer
        else:
            protocol.basic_error(500, b"Internal Server Error", "Exception inside application.")
    elif error is not None:
        protocol.handle_exception(error)
    else:
        protocol.handle_reply({"type": "websocket.close"})


class _Channel(HTTPChannel):
    """One connection, which can tell whether it is at rest."""

    factory: Any

    def connectionMade(self) -> None:  # noqa: N802  (Twisted's name)
        self.factory.server.open[self.transport] = self
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802
        self.factory.server.open.pop(self.transport, None)
        super().connectionLost(reason)

    @property
    def is_idle(self) -> bool:
        """Nothing of a request has come, or waits to be read."""
        transport: Any = self.transport
        if self.requests or self._buffer or self._dataBuffer or not transport.connected:
            return False
        return not unread_bytes(transport.fileno())


class _Request(WebRequest):
    """While draining, the connection ends with the answer. None where there may be none, of a body: Twisted drops the
    first piece, and daphne goes around it for the others (RFC 9112, section 6.3)."""

    is_bare = False

    def handle_reply(self, message: Any) -> None:
        if message.get("type") == "http.response.start":
            self.is_bare = self.method == b"HEAD" or message.get("status") in BARE
            worker = self.server.worker
            if (worker.stopping or worker.job.keepalive == 0) and self.channel is not None:
                self.channel.persistent = False
                self.responseHeaders.removeHeader(b"connection")  # the message has one
        elif self.is_bare and message.get("body"):
            message = {**message, "body": b""}
        super().handle_reply(message)


class _Factory(HTTPFactory):
    """daphne's, with our kind of connection."""

    protocol = _Channel

    def __init__(self, server: _Server) -> None:
        super().__init__(server)
        keepalive = server.worker.job.keepalive
        self.timeOut = keepalive or IDLE  # 0: each answer ends its connection, and a new one may be silent for a while

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = _Request
        return protocol


class _WebSocket(WebSocketProtocol):
    """Known as long as it is open."""

    def makeConnection(self, transport: Any) -> None:  # noqa: N802
        self.factory.server_class.open[transport] = None
        super().makeConnection(transport)

    def connectionLost(self, reason: Any) -> None:  # noqa: N802
        self.factory.server_class.open.pop(self.transport, None)
        super().connectionLost(reason)

    def serverClose(self, code: int | None = None) -> None:  # noqa: N802
        """autobahn's own way refuses codes that only a server may send, as 1012."""
        self.sendCloseFrame(code=1000 if code is None else code)


class _WebSocketFactory(WebSocketFactory):
    """daphne's, with that class."""

    protocol = _WebSocket
