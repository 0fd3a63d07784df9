"""werkzeug's server and handler classes, on a loop of ours: several sockets, and a stop that waits for its threads."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

from trapeze_backends.accepting import Room
from trapeze_backends.acceptor import Acceptor
from trapeze_backends.ambiguous import ambiguity
from trapeze_backends.chunks import dechunked
from trapeze_backends.quick import quick_import
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import adapt_app

with quick_import("importlib.metadata"):
    from werkzeug import serving

__all__ = ["run"]

SILENCE = 60.0
"""Seconds that a client may be silent before its request; werkzeug itself waits for ever."""

ANY_NUMBER = 1_000_000
"""Of threads: werkzeug starts one for each request."""


def run(app: Any, sockets: list[socket.socket], worker: Worker) -> None:
    """Serve until the worker is asked to stop, then drain."""
    options = worker.job.options
    if options.get("debugger"):
        app = _debugged(app, options.get("evalex", False))
    threaded = options.get("threaded", True)
    room = Room(worker.job.threads or ANY_NUMBER, lambda: acceptor.wake())
    acceptor = Acceptor(worker, room, _in_thread if threaded else _Connection.serve, SILENCE, SILENCE)
    for sock in sockets:
        server = _Server(sock, adapt_app(app, sock, worker), room)
        server.multithread = threaded
        acceptor.add(sock, server.connect)
    acceptor.run()


def _debugged(app: Any, evalex: bool) -> Any:
    from werkzeug.debug import DebuggedApplication

    debugged = DebuggedApplication(app, evalex=evalex)
    if evalex and debugged.pin:
        print(f"debugger PIN: {debugged.pin}", file=sys.stderr, flush=True)
    return debugged


def _in_thread(connection: _Connection) -> None:
    # One that is stuck must not keep the process.
    threading.Thread(target=connection.serve, daemon=True).start()


class _Connection:
    """One that was accepted, for one request."""

    __slots__ = ("_address", "_server", "_sock")

    def __init__(self, server: _Server, sock: socket.socket, address: Any) -> None:
        self._server = server
        self._sock = sock
        self._address = address

    def fileno(self) -> int:
        """Its descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Unserved."""
        self._sock.close()

    def serve(self) -> None:
        """Its request; it is in the room."""
        server = self._server
        try:
            server.finish_request(self._sock, self._address)
        except Exception:
            server.handle_error(self._sock, self._address)
        finally:
            server.shutdown_request(self._sock)
            server.room.leave()


class _Handler(serving.WSGIRequestHandler):
    """Without a log of its own."""

    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """False if the request was refused."""
        if not super().parse_request():
            return False
        reason = ambiguity(self.headers)
        if reason:
            self.send_error(400, f"The request has {reason}.")
        return not reason

    def make_environ(self) -> Any:
        """With all of CGI's variables as texts."""
        environ = super().make_environ()
        environ["REMOTE_PORT"] = str(environ["REMOTE_PORT"])
        if "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"] = dechunked(self.rfile)  # theirs knows no extensions and no trailers
        return environ

    def log(self, *args: Any) -> None:
        """The access log is ours, and only where it is wanted. Errors of the app do not come this way."""


class _Server(serving.BaseWSGIServer):
    """On a socket that is bound already."""

    socket: Any

    def __init__(self, sock: socket.socket, app: Any, room: Room) -> None:
        is_unix = sock.family == socket.AF_UNIX
        # The host only says which family it is; for Unix, what is behind "//" is nothing that it looks at.
        host = "unix://trapeze" if is_unix else sock.getsockname()[0]
        super().__init__(host, 0, app, _Handler, fd=sock.fileno())
        self.socket.close()  # a duplicate
        self.socket = sock
        self.room = room
        if is_unix:
            self.server_address = ("localhost", 80)

    def connect(self, client: Any, address: Any) -> _Connection:
        """A connection that was accepted."""
        return _Connection(self, client, address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
