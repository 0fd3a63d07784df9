"""chaussette's wsgiref server: one request at a time, several sockets."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import sys
import time
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

from chaussette.backend import _wsgiref

from trapeze_backends.ambiguous import ambiguity
from trapeze_backends.chaussette_common import with_socket
from trapeze_backends.chunks import dechunked
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app, host_and_port

__all__ = ["run"]

BEAT = 0.25
"""Seconds between two looks at whether to go on waiting for a silent client."""

TIMEOUT = 10.0
"""Seconds a silent client may hold the worker, which serves nobody else meanwhile."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop; the request under way is finished."""
    timeout = worker.job.options.get("timeout", TIMEOUT)
    handler = type("Handler", (Handler,), {"timeout": timeout})
    selector = selectors.DefaultSelector()
    for sock in sockets:
        server = with_socket(_wsgiref, Server, sock, adapt_app(app, sock, worker, closes=True), worker)
        server.RequestHandlerClass = handler
        server.worker, server.patience = worker, timeout
        selector.register(sock, selectors.EVENT_READ, server)
    wake = worker.wake_fd()
    selector.register(wake, selectors.EVENT_READ, None)
    worker.ready()
    while not worker.stopping:
        worker.beat()
        for key, _ in selector.select(worker.pulse):
            if key.data is None:
                os.read(wake, 64)
            elif not worker.stopping:
                key.data.handle_request_noblock()
    for sock in sockets:
        sock.close()


class Server(_wsgiref.ChaussetteServer):
    """On a socket that is bound already."""

    worker: Worker
    patience: float

    def server_bind(self) -> None:
        """Nothing is bound; the names only."""
        self.server_name, port = host_and_port(self.socket)
        self.server_port = int(port)
        self.setup_environ()

    def _handle_request_noblock(self) -> None:
        self.handle_request_noblock()

    def handle_request_noblock(self) -> None:
        """Accept one connection, if another worker was not faster, and serve it."""
        super()._handle_request_noblock()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; the address of a Unix peer is an empty text, which wsgiref cannot take apart."""
        client, address = self.socket.accept()
        return client, address if isinstance(address, tuple) else ("", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a client's first byte; one that stays silent holds nobody up once the worker leaves."""
        poll = select.poll()
        poll.register(request, select.POLLIN)
        end = time.monotonic() + self.patience
        while not poll.poll(BEAT * 1000):
            self.worker.beat()
            now = time.monotonic()
            if now >= end or (self.worker.stopping and now >= self.worker.grace_ends):
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or stays silent is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(_wsgiref.ChaussetteHandler):
    """chaussette's replaces each client's address by 0.0.0.0."""

    chunked: Any = None
    rfile: Any

    def __init__(self, sock: socket.socket, address: Any, server: Any) -> None:
        WSGIRequestHandler.__init__(self, sock, address, server)

    def parse_request(self) -> bool:
        """False if the request was refused."""
        if not super().parse_request():
            return False
        reason = ambiguity(self.headers)
        if reason:
            self.send_error(400, f"The request has {reason}.")
            return False
        if "transfer-encoding" in self.headers:
            self.chunked = self.rfile
            self.rfile = dechunked(self.chunked)  # which is what the app is given to read from
        return True

    def get_environ(self) -> Any:
        """The app may read up to the end, if there is one."""
        environ = super().get_environ()
        environ["wsgi.input_terminated"] = self.chunked is not None
        return environ

    def address_string(self) -> str:
        """Without a look-up of names."""
        return str(self.client_address[0])

    def finish(self) -> None:
        """The client may have gone."""
        with contextlib.suppress(ConnectionError):
            super().finish()
        if self.chunked is not None:
            self.chunked.close()

    def log_message(self, *args: Any) -> None:
        """The access log is ours, and only where it is wanted."""
