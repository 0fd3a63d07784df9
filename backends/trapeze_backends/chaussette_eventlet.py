"""chaussette's eventlet server, with an accept loop of ours: eventlet's own knows its connections by the address of the
peer, which all Unix peers share, and never ends when two of them are open."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

import eventlet
import eventlet.wsgi
from chaussette.backend import _eventlet
from eventlet.green import socket as green_socket
from eventlet.greenio import shutdown_safe

from trapeze_backends.ambiguous import ambiguity
from trapeze_backends.chaussette_common import with_socket
from trapeze_backends.endless import unread_bytes
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

__all__ = ["run"]

MAX_SIZE = 1024
"""Connections at a time; eventlet's default."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    options = dict(worker.job.options)
    pool = eventlet.GreenPool(options.pop("max_size", MAX_SIZE))
    keepalive = worker.job.keepalive if worker.job.keepalive is not None else True
    connections: list[Any] = []
    servers = []
    for sock in sockets:
        green = green_socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        server = with_socket(_eventlet, Server, green, adapt_app(app, green, worker), worker)
        options.setdefault("debug", False)  # its own default tells clients about the app's exceptions
        options.setdefault("minimum_chunk_size", 1)  # its own waits for 4 KB, which is a long time for an event stream
        server.setup(worker, pool, connections, keepalive=keepalive, log=_Log(), log_format="", **options)
        servers.append(server)
    wake = worker.wake_fd()
    acceptors = [eventlet.spawn(server.serve_forever) for server in servers]
    acceptors.append(eventlet.spawn(_beat, worker))
    worker.restore_backlog([server.socket for server in servers])
    worker.ready()
    while not worker.stopping:
        os.read(wake, 64)  # eventlet's: the others go on
    for acceptor in acceptors:
        acceptor.kill()
    for server in servers:
        server.socket.close()
    _drain(connections, worker)


def _beat(worker: Worker) -> None:
    while True:
        worker.beat()
        eventlet.sleep(worker.pulse)


class _Log:
    """Where eventlet says what it has to say: the app's exceptions go to stderr, and nothing else does."""

    def info(self, text: str) -> None:
        """A traceback; or a line of its access log, which is made empty."""
        if text:
            sys.stderr.write(f"{text.rstrip()}\n")

    def debug(self, text: str) -> None:
        """Each connection that it accepts."""


class Server(_eventlet.Server):
    """chaussette's, with the loop replaced."""

    def setup(self, worker: Worker, pool: Any, connections: list[Any], **options: Any) -> None:
        """Make eventlet's own server object."""
        self.pool = pool
        self.connections = connections
        self.server = eventlet.wsgi.Server(
            self.socket, self.socket.getsockname(), self.application, protocol=Protocol, **options
        )
        self.server.worker = worker

    def serve_forever(self) -> None:
        """Accept until killed. A place in the pool is waited for first, so that others get what we cannot serve."""
        while True:
            if self.pool.free() <= 0:
                eventlet.sleep(0.01)
                continue
            try:
                client, address = self.socket.accept()
            except (ConnectionError, InterruptedError):
                continue
            client.settimeout(self.server.socket_timeout)
            connection = [address, client, eventlet.wsgi.STATE_IDLE]
            self.connections.append(connection)
            self.pool.spawn(self._serve, connection)

    def _serve(self, connection: list[Any]) -> None:
        try:
            self.server.process_request(connection)
        finally:
            self.connections.remove(connection)
            shutdown_safe(connection[1])
            connection[1].close()


class Protocol(eventlet.wsgi.HttpProtocol):
    """While draining, a connection closes after its answer; half a request is one that is under way."""

    def get_environ(self) -> Any:
        """eventlet says HTTP/1.0 of every request, and does not say that its input ends with the body."""
        environ = super().get_environ()
        environ["SERVER_PROTOCOL"] = self.request_version
        environ["wsgi.input_terminated"] = True
        environ["eventlet.headers_raw"] = environ.pop("headers_raw", ())  # names without a dot are CGI's, and texts
        return environ

    def parse_request(self) -> bool:
        """False if the request was refused."""
        if not super().parse_request():
            return False
        reason = ambiguity(self.headers)
        if reason:
            self.send_error(400, f"The request has {reason}.")
        return not reason

    def log_error(self, *args: Any) -> None:
        """A bad request is no error of ours."""

    def _read_request_line(self) -> Any:
        if self.rfile.closed:
            return super()._read_request_line()
        keepalive = self.server.keepalive
        if keepalive and not isinstance(keepalive, bool):
            self.connection.settimeout(keepalive)
        try:
            begun = self.rfile.peek(1)
        except OSError:
            return ""
        if begun:
            self.conn_state[2] = eventlet.wsgi.STATE_REQUEST
        return super()._read_request_line() if begun else ""

    def handle_one_response(self) -> None:
        if self.server.worker.stopping:
            self.server.keepalive = False
        super().handle_one_response()


def _drain(connections: list[Any], worker: Worker) -> None:
    start = time.monotonic()
    while connections and time.monotonic() < start + worker.job.patience:
        if time.monotonic() >= start + worker.job.drain_grace:
            for _, client, state in list(connections):
                if state == eventlet.wsgi.STATE_IDLE and client.fileno() >= 0 and not unread_bytes(client.fileno()):
                    shutdown_safe(client)
        eventlet.sleep(0.02)
