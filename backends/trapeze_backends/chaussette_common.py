"""What the servers of chaussette share: a right environ, an access log, and its classes given a ready socket."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from trapeze_backends.endless import may_end
from trapeze_backends.worker import Worker

__all__ = ["adapt_app", "host_and_port", "with_socket"]

LOOPBACK = ("127.0.0.1", "::1")
NEED_TELLING = frozenset({"gevent", "geventwebsocket", "bjoern"})
"""Servers that send no `Connection: close` of their own."""


def host_and_port(sock: socket.socket) -> tuple[str, str]:
    """Return SERVER_NAME and SERVER_PORT of a listener. A Unix socket has neither, and they may not be empty."""
    if sock.family == socket.AF_UNIX:
        return "localhost", "80"
    name = sock.getsockname()
    return str(name[0]), str(name[1])


def adapt_app(app: Any, sock: socket.socket, worker: Worker, server: str = "") -> Any:
    """Return `app` with what the server gets wrong in the environ put right, and with an access log if wanted."""
    name, port = host_and_port(sock)
    is_unix = sock.family == socket.AF_UNIX
    # bjoern makes up an IPv4 address for every kind of peer.
    nameless = is_unix or (sock.family == socket.AF_INET6 and server == "bjoern")
    multiprocess = worker.job.workers > 1

    def adapted(environ: dict[str, Any], start_response: Any) -> Any:
        scheme = environ.get("HTTP_X_FORWARDED_PROTO")
        if scheme in ("http", "https") and (is_unix or environ.get("REMOTE_ADDR") in LOOPBACK):
            environ["wsgi.url_scheme"] = scheme  # believed of a proxy on this machine, as gunicorn does
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = port
        environ["wsgi.multiprocess"] = multiprocess
        if nameless:
            environ["REMOTE_ADDR"] = ""
            environ.pop("REMOTE_PORT", None)
            environ.pop("REMOTE_HOST", None)
        return app(environ, start_response)

    made = _ending(_closing(adapted, worker) if server in NEED_TELLING else adapted, worker)
    return _logged(made) if worker.job.access_log else made


def _closing(app: Any, worker: Worker) -> Any:
    """While draining, tell the client that the connection closes; gevent then closes it, bjoern leaves it to him."""

    def closing(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            if worker.stopping:
                headers = [*headers, ("Connection", "close")]
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        return app(environ, start)

    return closing


def _ending(app: Any, worker: Worker) -> Any:
    """Answers without an end are ended when the worker leaves."""

    def ending(environ: dict[str, Any], start_response: Any) -> Any:
        noted: list[Any] = []

        def start(status: str, headers: Any, *exc_info: Any) -> Any:
            noted[:] = headers
            return start_response(status, headers, *exc_info)

        result = app(environ, start)
        wrapper = environ.get("wsgi.file_wrapper")
        return result if wrapper is not None and type(result) is wrapper else may_end(result, lambda: noted, worker)

    return ending


def _logged(app: Any) -> Any:
    """One line per request on stdout, in the common log format; the size is not known here."""

    def logged(environ: dict[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            now = time.strftime("%d/%b/%Y:%H:%M:%S %z")
            query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
            line = f"{environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')}{query} {environ['SERVER_PROTOCOL']}"
            shown = line.replace("\n", "\\n").replace("\r", "\\r").replace('"', '\\"')
            who = environ.get("REMOTE_ADDR") or "-"
            sys.stdout.write(f'{who} - - [{now}] "{shown}" {status.split(" ", 1)[0]} -\n')
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        return app(environ, start)

    return logged


def with_socket(module: Any, cls: type[Any], sock: Any, app: Any, worker: Worker, **options: Any) -> Any:
    """Make one of chaussette's servers on a socket that is ready: its own `create_socket` would make it blocking, for
    every process that shares it."""
    original, module.create_socket = module.create_socket, lambda *args, **kwargs: sock
    try:
        return cls(
            ("fd://0", 0),
            app,
            backlog=worker.job.backlog,
            socket_type=socket.SOCK_STREAM,
            address_family=sock.family,
            **options,
        )
    finally:
        module.create_socket = original
