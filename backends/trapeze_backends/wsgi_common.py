"""What WSGI servers share: a right environ, and answers that end when the worker leaves."""

from __future__ import annotations

import socket
import sys
from typing import Any

from trapeze_backends.endless import may_end
from trapeze_backends.worker import Worker

__all__ = ["adapt_app", "host_and_port"]


def host_and_port(sock: socket.socket) -> tuple[str, str]:
    """Return SERVER_NAME and SERVER_PORT of a listener. A Unix socket has neither, and they may not be empty."""
    if sock.family == socket.AF_UNIX:
        return "localhost", "80"
    name = sock.getsockname()
    return str(name[0]), str(name[1])


def adapt_app(
    app: Any, sock: socket.socket, worker: Worker, *, tell: bool = False, nameless: bool = False, heads: bool = False
) -> Any:
    """Return `app` with what servers get wrong in the environ put right, and with endless answers that end.

    Args:
        app: WSGI callable.
        sock: the listener that its requests come from.
        worker: the worker; once it leaves, answers without an end are ended.
        tell: the server sends no `Connection: close` of its own while it drains.
        nameless: what the server says of its peers is made up.
        heads: the server leaves out bodies in answers to HEAD, and can say how long they would be.
    """
    name, port = host_and_port(sock)
    is_unix = sock.family == socket.AF_UNIX
    multiprocess = worker.job.workers > 1

    def adapted(environ: dict[str, Any], start_response: Any) -> Any:
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = port
        environ["wsgi.multiprocess"] = multiprocess
        environ["wsgi.errors"] = sys.stderr
        environ.setdefault("QUERY_STRING", "")  # PEP 3333 lets these be absent, and apps do not expect that
        environ.setdefault("SCRIPT_NAME", "")
        if is_unix or nameless:
            environ["REMOTE_ADDR"] = ""
            if not is_unix:
                environ["trapeze.nameless"] = True  # or it would be taken for a Unix peer, who is trusted more
            environ.pop("REMOTE_PORT", None)
            environ.pop("REMOTE_HOST", None)
        if environ["REQUEST_METHOD"] == "HEAD" and not heads:
            return _without_body(app(environ, start_response))
        return app(environ, start_response)

    return _ending(_closing(adapted, worker) if tell else adapted, worker)


def _without_body(result: Any) -> list[bytes]:
    """Not every app leaves it out in its answer to HEAD, and not every server: on a kept connection the client would
    take it for the next answer (RFC 9110, section 9.3.2)."""
    try:
        for _ in result:  # generators call start_response only now
            break
    finally:
        if hasattr(result, "close"):
            result.close()
    return []


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
