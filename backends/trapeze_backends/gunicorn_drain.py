"""What gunicorn's worker classes lack to leave without losing a request.

- sync: a client that connects and says nothing holds the worker, which serves nobody else. It is waited for beat by
  beat, and no longer than `drain_grace` once the worker leaves.
- gthread: a kept connection is closed when its time is over although a request has just come; a silent new one holds a
  thread for five seconds.
- gevent: the stop is noticed up to a second late, and idle connections stay for as long as `keepalive` says.
- all: an answer without an end is ended (`endless`).
"""

from __future__ import annotations

import select
import socket
import sys
import time

from trapeze_backends.endless import may_end, unread_bytes
from trapeze_backends.gunicorn_linger import linger_in_the_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.worker import Worker

__all__ = ["adapt_gevent", "adapt_sync", "adapt_threads", "ending_app"]

BEAT = 0.25
"""Seconds between two looks at whether to go on waiting for a silent client."""


def ending_app(app: Any, worker: Worker) -> Any:
    """Return the WSGI app, its endless answers ending when the worker leaves."""

    def ending(environ: dict[str, Any], start_response: Any) -> Any:
        result = app(environ, start_response)
        response = getattr(start_response, "__self__", None)  # gunicorn's Response: it has the headers
        if response is None or type(result) is environ.get("wsgi.file_wrapper"):
            return result
        return may_end(result, lambda: getattr(response, "headers", ()), worker)

    return ending


def adapt_sync(base: type[Any], worker: Worker) -> type[Any]:
    """Return a subclass of gunicorn's SyncWorker."""

    class Adapted(base):
        """Waits for a client's first byte before it gives itself over to it."""

        def handle(self, listener: Any, client: Any, addr: Any) -> None:
            poll = select.poll()
            poll.register(client, select.POLLIN)
            while not poll.poll(BEAT * 1000):
                self.notify()
                if worker.stopping and time.monotonic() >= worker.grace_ends:
                    client.close()
                    return
            super().handle(listener, client, addr)

    return Adapted


def adapt_threads(base: type[Any], worker: Worker) -> type[Any]:
    """Return a subclass of gunicorn's ThreadWorker (24 and newer)."""
    module = sys.modules[next(each for each in base.__mro__ if each.__name__ == "ThreadWorker").__module__]
    deferred = getattr(module, "_DEFER", None)
    if hasattr(module.TConn, "wait_for_data"):
        _wait_in_pieces(module.TConn, worker)
    if hasattr(module.util, "close_graceful") and hasattr(base, "murder_pending"):
        base = linger_in_the_loop(base, module.TConn)

    class Adapted(base):
        """Looks before it closes."""

        def murder_keepalived(self, force: bool = False) -> None:
            now = time.monotonic()
            for conn in list(self.keepalived_conns) if worker.stopping else ():
                if (force or conn.timeout <= now) and _has_bytes(conn.sock):
                    self.on_client_socket_readable(conn, conn.sock)
            super().murder_keepalived(force)

        def finish_request(self, conn: Any, fs: Any) -> None:
            if worker.stopping and deferred is not None and _result(fs) is deferred:
                self.nr_conns -= 1  # silent to the end: it was never initialised, and cannot be kept
                conn.close()
                return
            super().finish_request(conn, fs)

    return Adapted


def _wait_in_pieces(connection_class: Any, worker: Worker) -> None:
    """In a thread of the pool, for a new connection's first byte: no longer than the grace once the worker leaves."""
    plain = connection_class.wait_for_data

    def wait_for_data(conn: Any, timeout: float) -> bool:
        end = time.monotonic() + timeout
        while not plain(conn, min(BEAT, max(0.0, end - time.monotonic()))):
            now = time.monotonic()
            if now >= end or (worker.stopping and now >= worker.grace_ends):
                return False
        return True

    connection_class.wait_for_data = wait_for_data


def _result(future: Any) -> Any:
    """What a thread of the pool returned, None if it did not."""
    return None if future.cancelled() or future.exception() is not None else future.result()


def _has_bytes(sock: Any) -> bool:
    return sock.fileno() >= 0 and unread_bytes(sock.fileno()) > 0


def adapt_gevent(base: type[Any], worker: Worker) -> type[Any]:
    """Return a subclass of gunicorn's GeventWorker."""
    import gevent
    import gevent.event

    from trapeze_backends.gevent_share import sharing

    live: dict[Any, _Waiting] = {}
    stopped = gevent.event.Event()

    class Watched(gevent.socket.socket):
        """Tells when the first bytes of a request have come."""

        __slots__ = ()

        def recv(self, *args: Any) -> bytes:
            data = bytes(super().recv(*args))
            waiting = live.get(gevent.getcurrent())
            if waiting is not None and data:
                waiting.idle = False
            return data

    class Adapted(base):
        """Knows which connections wait for a request."""

        def handle(self, listener: Any, client: Any, addr: Any) -> None:
            if type(client) is gevent.socket.socket:
                client.__class__ = Watched
            current = gevent.getcurrent()
            live[current] = _Waiting(client)
            try:
                super().handle(listener, client, addr)
            finally:
                del live[current]

        def timeout_ctx(self) -> Any:
            """Called each time a request is waited for."""
            waiting = live.get(gevent.getcurrent())
            if waiting is not None:
                waiting.idle = True
            return super().timeout_ctx()

        def handle_exit(self, sig: int, frame: Any) -> None:
            super().handle_exit(sig, frame)
            gevent.spawn(_close_idle, live, worker, stopped)

        def run(self) -> None:
            module = sys.modules[next(each for each in base.__mro__ if each.__name__ == "GeventWorker").__module__]
            module.gevent = _Gevent(gevent, stopped)  # type: ignore[attr-defined]
            module.StreamServer = sharing(module.StreamServer, worker.share)  # type: ignore[attr-defined]
            super().run()

    return Adapted


class _Waiting:
    """A connection, and whether it waits for a request."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.idle = True


def _close_idle(live: dict[Any, _Waiting], worker: Worker, stopped: Any) -> None:
    """A greenlet, from the stop on."""
    import gevent

    stopped.set()
    gevent.sleep(max(0.0, worker.grace_ends - time.monotonic()))
    while True:
        for waiting in list(live.values()):
            if waiting.idle and not _has_bytes(waiting.client):
                try:
                    # Its recv returns b"", and it closes; gevent's own shutdown() would raise in it instead.
                    waiting.client._sock.shutdown(socket.SHUT_RD)
                except OSError:
                    continue
        gevent.sleep(0.02)


class _Gevent:
    """gevent as gunicorn's worker module sees it: its sleeps of a second end when the worker is to leave."""

    def __init__(self, real: Any, stopped: Any) -> None:
        self._real = real
        self._stopped = stopped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sleep(self, seconds: float = 0) -> None:
        """Shorter once the worker leaves."""
        if self._stopped.is_set():
            self._real.sleep(min(seconds, 0.02))
        else:
            self._stopped.wait(seconds)
