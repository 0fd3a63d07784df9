"""gunicorn's asgi worker class: the reason of a failed start, and a drain that keeps what answers have promised.

At SIGTERM the class goes on for up to a second, and then closes connections whose last answer said that they are kept:
the client's next request is lost. Here it stops accepting at once, says `Connection: close` from then on, and closes
what is idle after `drain_grace`; WebSockets and endless answers as well. gunicorn's protocol class decides by
`worker.alive`, so that stays true meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from trapeze_backends.contract import StartError
from trapeze_backends.endless import is_endless_raw, unread_bytes
from trapeze_backends.gate import Gate
from trapeze_backends.gunicorn_settings import last_line
from trapeze_backends.unixnames import unix_names
from trapeze_backends.worker import Worker

__all__ = ["adapt_asgi"]

TICK = 0.05
"""Seconds between two looks for idle connections, once the grace is over."""

START = ("request_line", "proxy_protocol", "complete")
"""States of gunicorn's parser between two requests."""

RESTART = 1012
"""The code with which WebSockets are closed."""


def adapt_asgi(base: type[Any], worker: Worker) -> type[Any]:
    """Return a subclass of the (already adapted) class."""

    class Adapted(base):
        """See the module's docstring."""

        _main: asyncio.Task[Any] | None = None
        _gate: Gate | None = None

        def run(self) -> None:
            from gunicorn.asgi import lifespan
            from gunicorn.workers import gasgi

            reasons = self._reasons = list[BaseException]()
            self._open: set[Any] = set()
            manager, protocol = lifespan.LifespanManager, gasgi.ASGIProtocol
            lifespan.LifespanManager = _manager(manager, reasons, worker)
            gasgi.ASGIProtocol = _protocol(protocol, self._open, worker, lambda: self._gate)
            _name_unix_sockets(sys.modules[protocol.__module__], unix_names(self.sockets, worker.job.listeners))
            self._can_keep = hasattr(protocol, "_will_close")
            try:
                super().run()
            except SystemExit:
                raise _explained(reasons) from None
            finally:
                lifespan.LifespanManager, gasgi.ASGIProtocol = manager, protocol

        async def _serve(self) -> None:
            if getattr(self.cfg, "asgi_lifespan", "auto") == "off":
                await _ask(self.asgi, self.state, worker, self._reasons)
            await super()._serve()

        def notify(self) -> None:
            super().notify()
            self._main = asyncio.current_task(self.loop)
            self._gate = self._gate or _gate(worker, self)

        def _graceful_in_loop(self) -> None:
            if worker.stopping:
                return
            self._gate = _without(self._gate)
            if self._main is None or not self._can_keep:
                super()._graceful_in_loop()
                return
            worker.stop()
            self._main.cancel()  # it sleeps; being cancelled it goes on to its orderly end
            self.cfg.set("graceful_timeout", max(int(worker.job.patience), 1))
            self.loop.call_later(worker.job.drain_grace, _close, self.loop, self._open, set())

    return Adapted


def _gate(worker: Worker, server: Any) -> Gate | None:
    """What is before its listeners, once it accepts."""
    if worker.share.is_alone or worker.stopping:
        return None
    return Gate(worker.share, [each.sock for each in server.sockets], server.loop)


def _without(gate: Gate | None) -> Gate | None:
    if gate is not None:
        gate.close()
    return None


def _name_unix_sockets(module: Any, names: dict[Any, str]) -> None:
    """`scope["server"]` is the path of a Unix socket; gunicorn 27 takes its first two letters for host and port."""
    plain = getattr(module, "_normalize_sockaddr", None)
    if plain is not None:
        module._normalize_sockaddr = lambda name: (
            (names.get(name, name), None) if name and isinstance(name, str | bytes) else plain(name)
        )


def _explained(reasons: list[BaseException]) -> BaseException:
    """The reason of an exit, where it was the lifespan."""
    if not reasons:
        return SystemExit(1)
    if isinstance(reasons[-1], StartError):
        return reasons[-1]
    reason = last_line(reasons[0]).removeprefix("Lifespan startup failed: ")
    return StartError(f"the app's lifespan start-up failed: {reason}")


def _close(loop: asyncio.AbstractEventLoop, connections: set[Any], told: set[Any]) -> None:
    """Close what waits for a request or has no end, now and until the loop ends."""
    for connection in [each for each in connections if each not in told and not getattr(each, "_closed", False)]:
        websocket = getattr(connection, "_websocket", None)
        if getattr(connection, "_awaiting_request", False):
            if not _has_begun(connection):
                connection._keepalive_timeout()
        elif websocket is not None:
            if websocket.accepted:
                told.add(connection)
                websocket.restart = loop.create_task(_close_websocket(websocket))
        elif is_endless_raw(getattr(connection, "head", ())):
            told.add(connection)
            _end(connection)
    loop.call_later(TICK, _close, loop, connections, told)


def _has_begun(connection: Any) -> bool:
    """Has a part of the next request come, or does it wait to be read?"""
    ready = getattr(connection, "_request_ready", None)
    if ready is not None and ready.is_set():
        return True  # parsed in this very turn of the loop: the task that serves it has not run yet
    parser = connection._callback_parser
    if getattr(parser, "_buffer", b"") or getattr(parser, "_state", START[0]) not in START:
        return True
    sock = connection.transport.get_extra_info("socket")
    return sock is not None and sock.fileno() >= 0 and unread_bytes(sock.fileno()) > 0


async def _close_websocket(websocket: Any) -> None:
    """1012, service restart; the app hears a disconnect and returns."""
    await websocket._send_close(RESTART)
    websocket._receive_queue.put_nowait({"type": "websocket.disconnect", "code": RESTART})


def _end(connection: Any) -> None:
    """An orderly end for the client, a disconnect for the app, which is cancelled if it does not listen for that."""
    names = {bytes(name).lower() for name, _ in connection.head}
    last, connection._response_buffer = connection._response_buffer or b"", None
    connection._safe_write(last + (b"0\r\n\r\n" if b"transfer-encoding" in names else b""))
    connection._close_transport()


async def _ask(app: Any, state: dict[str, Any], worker: Worker, reasons: list[BaseException]) -> None:
    """The health request; an error that is not an exit would only be logged."""
    try:
        await worker.check_health(app, state)
    except StartError as error:
        reasons.append(error)
        raise SystemExit(1) from None


def _manager(base: type[Any], reasons: list[BaseException], worker: Worker) -> type[Any]:
    class Manager(base):
        """Notes what its start-up raised: gunicorn logs it, and exits 3. Then asks for the app's health."""

        async def startup(self) -> None:
            try:
                await super().startup()
            except Exception as error:
                reasons.append(error)
                if type(error).__name__ != "LifespanStartupFailed":  # it knows no lifespan, and is served all the same
                    await _ask(self.app, self.state, worker, reasons)
                raise
            await _ask(self.app, self.state, worker, reasons)

    return Manager


def _protocol(base: type[Any], connections: set[Any], worker: Worker, gate: Callable[[], Gate | None]) -> type[Any]:
    class Protocol(base):
        """Known while it is open; announces the end of the connection while draining."""

        def __init__(self, *args: Any, **more: Any) -> None:
            if (before := gate()) is not None:
                before.accepted()
            super().__init__(*args, **more)

        head: Any = ()
        """The headers of the answer that was begun last."""

        def _send_response_start(self, status: int, headers: Any, *args: Any, **more: Any) -> None:
            self.head = headers
            super()._send_response_start(status, headers, *args, **more)

        def connection_made(self, transport: Any) -> None:
            connections.add(self)
            super().connection_made(transport)

        def connection_lost(self, exc: BaseException | None) -> None:
            connections.discard(self)
            if (before := gate()) is not None:
                before.left()
            super().connection_lost(exc)

        def _will_close(self, *args: Any) -> bool:
            return worker.stopping or bool(super()._will_close(*args))

    return Protocol
