"""cheroot's server, request and thread classes, on a loop and a pool of ours.

Its own loop knows one socket, calls listen(5) on it, gives each silent connection a thread and keeps ten connections at
most; its own stop cuts off or waits, by the clock. Its own pool takes a tenth of a second to start.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import traceback as tracebacks
from typing import Any

from cheroot import wsgi
from cheroot.server import HTTPConnection
from cheroot.workers.threadpool import WorkerThread

from trapeze_backends.accepting import Room
from trapeze_backends.acceptor import Acceptor
from trapeze_backends.cheroot_http import Gateway, Request
from trapeze_backends.endless import unread_bytes
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]

THREADS = 10
TIMEOUT = 10.0
"""Seconds; both are cheroot's defaults."""

WARNING = 30
"""As in logging. Below are clients that went away."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    options = dict(worker.job.options)
    threads = worker.job.threads or options.pop("numthreads", THREADS)
    timeout = options.pop("timeout", TIMEOUT)
    keepalive = timeout if worker.job.keepalive is None else worker.job.keepalive
    pool = _Pool()
    pool.room = Room(threads, lambda: acceptor.wake())
    acceptor = Acceptor(worker, pool.room, pool.put, timeout, keepalive or timeout)
    servers = []
    for sock, listener in zip(sockets, worker.job.listeners, strict=True):
        server = _Server(sock, listener.address, adapt_app(app, sock, worker), pool, options)
        server.worker, server.acceptor = worker, acceptor
        server.timeout, server.patience = keepalive, timeout
        acceptor.add(sock, server.connect)
        servers.append(server)
    for _ in range(threads):
        thread = WorkerThread(servers[0])
        thread.daemon = True  # one that is stuck must not keep the process
        thread.start()
    acceptor.run()


class _Pool:
    """The queue in front of the threads, as those know it. A thread that comes for the next request is free."""

    room: Room

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.local()

    def put(self, connection: Any) -> None:
        """A request is to be served, which is in the room."""
        self._queue.put(connection)

    def get(self) -> Any:
        """The next one."""
        if getattr(self._thread, "is_busy", False):
            self.room.leave()
        connection = self._queue.get()
        self._thread.is_busy = True
        return connection


class _Connection(HTTPConnection):
    """Closes so that its last answer arrives."""

    RequestHandlerClass = Request

    def fileno(self) -> int:
        """Its descriptor."""
        return int(self.socket.fileno())

    def close(self) -> None:
        """A close with unread bytes is a reset, on which the client may throw away the answer that it has."""
        self.rfile.close()
        if self.socket.fileno() >= 0 and unread_bytes(self.socket.fileno()):
            self.server.acceptor.linger(self.socket)
        else:
            super().close()


class _Server(wsgi.Server):
    """One for each socket; they share the threads."""

    ConnectionClass = _Connection
    keep_alive_conn_limit: int | None = None
    worker: Worker
    acceptor: Acceptor
    patience: float
    ready = True

    def __init__(self, sock: socket.socket, address: str, app: Any, pool: _Pool, options: dict[str, Any]) -> None:
        own = ("server_name", "peercreds_enabled", "peercreds_resolve_enabled")
        where = address if sock.family == socket.AF_UNIX else sock.getsockname()[:2]
        super().__init__(where, app, **{name: options[name] for name in own if name in options})
        for name in ("max_request_header_size", "max_request_body_size", "keep_alive_conn_limit"):
            if name in options:
                setattr(self, name, options[name])
        self.gateway = Gateway
        self.socket = sock
        self.software = f"{self.version} Server"
        self.requests = pool

    def connect(self, client: socket.socket, address: Any) -> _Connection:
        """A connection that was accepted."""
        client.settimeout(self.patience)
        connection = _Connection(self, client)
        if isinstance(address, tuple):
            connection.remote_addr, connection.remote_port = address[:2]
        return connection

    def put_conn(self, conn: Any) -> None:
        """In a thread, after a request: the connection is kept."""
        if conn.rfile.has_data():
            self.requests.room.enter()
            self.requests.put(conn)
        else:
            self.acceptor.keep(conn)

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Asked when the head of an answer is made; no means `Connection: close`."""
        if self.worker.stopping or not self.timeout:
            return False
        limit = self.keep_alive_conn_limit
        return limit is None or self.acceptor.silent < limit

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """What the app, or cheroot itself, did wrong."""
        if level >= WARNING:
            text = tracebacks.format_exc() if traceback else f"{msg}\n"
            sys.stderr.write(text)
            sys.stderr.flush()

    def stop(self) -> None:
        """A thread asks for it that has failed; the worker goes on."""
