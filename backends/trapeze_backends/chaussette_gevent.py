"""chaussette's gevent and geventwebsocket servers. The standard library was patched before the app was imported."""

from __future__ import annotations

import socket
import time
from typing import Any

import gevent
import gevent.event
import gevent.socket

from trapeze_backends.chaussette_common import with_socket
from trapeze_backends.endless import unread_bytes
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]


def run(app: Any, sockets: list[socket.socket], worker: Worker, name: str) -> None:
    """Serve until the worker is asked to stop, then drain."""
    module, base = _chaussette_module(name)
    live: set[Any] = set()
    handler = _handler(base, live, worker)
    spawn = worker.job.options.get("spawn", "default")
    servers = []
    for sock in sockets:
        green = gevent.socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        server = with_socket(
            module,
            module.Server,
            green,
            adapt_app(app, green, worker, tell=True),
            worker,
            spawn=spawn,
            log=None,
            handler_class=handler,
            environ={"wsgi.multiprocess": True},  # makes gevent accept one connection at a time: siblings get theirs
        )
        server.handler_class = handler
        servers.append(server)
    stop = gevent.event.Event()
    _catch_signals(worker, stop)
    for server in servers:
        server.start()
    worker.restore_backlog([server.socket for server in servers])
    worker.ready()
    while not stop.is_set():
        worker.beat(in_flight=sum(handler.idle_since is None for handler in live))
        stop.wait(worker.pulse)
    for server in servers:
        server.close()
    _drain(live, worker)


def _catch_signals(worker: Worker, stop: Any) -> None:
    """By gevent's own watchers: while its loop sleeps, no handler of the signal module runs."""

    def graceful() -> None:
        worker.stop()
        stop.set()

    for number in worker.graceful_signals:
        gevent.signal_handler(number, graceful)
    for number in worker.fast_signals:
        gevent.signal_handler(number, worker.leave_now)


def _chaussette_module(name: str) -> tuple[Any, type[Any]]:
    if name == "geventwebsocket":
        from chaussette.backend import _geventwebsocket
        from geventwebsocket.handler import WebSocketHandler

        return _geventwebsocket, WebSocketHandler
    from chaussette.backend import _gevent

    return _gevent, _gevent.CustomWSGIHandler


def _handler(base: type[Any], live: set[Any], worker: Worker) -> type[Any]:
    keepalive = worker.job.keepalive

    class Handler(base):
        """Knows whether it waits for a request."""

        idle_since: float | None = None
        served = 0

        def handle(self) -> None:
            live.add(self)
            try:
                super().handle()
            finally:
                live.discard(self)

        def read_requestline(self) -> Any:
            self.idle_since = time.monotonic()
            try:
                # The first request is waited for without a limit, as gevent does.
                line = ""
                with gevent.Timeout(keepalive if self.served else None, False):
                    self.rfile.peek(1)
                    self.idle_since = None  # it has begun, and is a request from now on
                    line = super().read_requestline()
                return line
            finally:
                self.idle_since = None
                self.served += 1

    return Handler


def _drain(live: set[Any], worker: Worker) -> None:
    start = time.monotonic()
    while live and time.monotonic() < start + worker.job.patience:
        if time.monotonic() >= start + worker.job.drain_grace:
            for handler in list(live):
                _close_if_idle(handler)
        gevent.sleep(0.02)


def _close_if_idle(handler: Any) -> None:
    sock = getattr(handler, "socket", None)
    if sock is None:
        return
    if getattr(handler, "websocket", None) is not None:
        handler.websocket.close(1012, b"service restart")
    elif handler.idle_since is not None and not unread_bytes(sock.fileno()):
        try:
            sock.shutdown(socket.SHUT_RD)  # its read returns "", and it closes
        except OSError:
            return
