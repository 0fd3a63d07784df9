"""gevent's WSGIServer with a stop that drains. The standard library was patched before the app was imported."""

from __future__ import annotations

import socket
import time
from typing import Any

import gevent
import gevent.event
import gevent.pywsgi
import gevent.socket

from trapeze_backends.ambiguous import ambiguity
from trapeze_backends.endless import unread_bytes
from trapeze_backends.gevent_share import sharing
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]

GOODBYE = 1.0
"""Seconds that a client has to answer the close frame of a WebSocket."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    options = worker.job.options
    live: set[Any] = set()
    handler = _handler(_base_handler(options.get("websocket", False)), live, worker)
    servers = []
    server_class = sharing(gevent.pywsgi.WSGIServer, worker.share)
    for sock in sockets:
        green = gevent.socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        server = server_class(
            green,
            _asked(adapt_app(app, green, worker, tell=True), worker.app),
            spawn=options.get("spawn", "default"),
            log=None,
            handler_class=handler,
            # What is said of several processes makes gevent accept one connection at a time: siblings get theirs.
            environ={**options.get("environ", {}), "wsgi.multiprocess": True},
        )
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


def _asked(app: Any, original: Any) -> Any:
    """Return `app`; gevent-websocket asks it which protocol it speaks, if it can be asked."""
    if hasattr(original, "app_protocol"):
        app.app_protocol = original.app_protocol
    return app


def _base_handler(websocket: bool) -> type[Any]:
    if websocket:
        from trapeze_backends.gevent_websocket import WebSocketHandler

        return WebSocketHandler  # type: ignore[no-any-return]
    return gevent.pywsgi.WSGIHandler  # type: ignore[no-any-return]


def _handler(base: type[Any], live: set[Any], worker: Worker) -> type[Any]:
    keepalive = worker.job.keepalive

    class Handler(base):
        """Knows whether it waits for a request."""

        idle_since: float | None = None
        closed_since: float | None = None
        served = 0

        def __init__(self, sock: Any, address: Any, server: Any) -> None:
            if not isinstance(address, tuple):
                # Unix peers have no address. gevent-websocket knows its clients by it, so that each needs one.
                address = ("", id(self))
            super().__init__(sock, address, server)

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

        def MessageClass(self, *args: Any) -> Any:  # noqa: N802  (theirs)
            """The headers; a request that may be understood in two ways is answered 400."""
            headers = super().MessageClass(*args)
            reason = ambiguity(headers)
            if reason:
                raise ValueError(reason)
            return headers

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
        _close_websocket(handler, sock)
    elif handler.idle_since is not None and not unread_bytes(sock.fileno()):
        _end_reading(sock)


def _close_websocket(handler: Any, sock: Any) -> None:
    now = time.monotonic()
    if handler.closed_since is None:
        handler.closed_since = now
        # By itself: a client that reads nothing must not hold up the others.
        gevent.spawn(handler.websocket.say_goodbye, 1012, b"service restart")
    elif now >= handler.closed_since + GOODBYE:
        _end_reading(sock)


def _end_reading(sock: Any) -> None:
    """Its read returns nothing, and it closes."""
    try:
        sock.shutdown(socket.SHUT_RD)
    except OSError:
        return
