"""What WSGI servers share: a right environ, and answers that end when the worker leaves."""

from __future__ import annotations

import socket
import sys
from typing import Any

from trapeze_backends.endless import may_end
from trapeze_backends.worker import Worker

__all__ = ["adapt_app", "host_and_port"]

CLOSE = ("Connection", "close")
"""What a server that leaves tells the client; gevent then closes the connection, bjoern leaves it to him."""


def host_and_port(sock: socket.socket) -> tuple[str, str]:
    """Return SERVER_NAME and SERVER_PORT of a listener. A Unix socket has neither, and they may not be empty."""
    if sock.family == socket.AF_UNIX:
        return "localhost", "80"
    name = sock.getsockname()
    return str(name[0]), str(name[1])


def adapt_app(
    app: Any,
    sock: socket.socket,
    worker: Worker,
    *,
    tell: bool = False,
    nameless: bool = False,
    heads: bool = False,
    closes: bool = False,
) -> Any:
    """Return `app` with what servers get wrong in the environ put right, and with endless answers that end.

    Args:
        app: WSGI callable.
        sock: the listener that its requests come from.
        worker: the worker; once it leaves, answers without an end are ended.
        tell: the server sends no `Connection: close` of its own while it drains.
        nameless: what the server says of its peers is made up.
        heads: the server leaves out bodies in answers to HEAD, and can say how long they would be.
        closes: it ends each connection with the answer, and takes no `Connection` of the app's.
    """
    facts = _facts(sock, worker, nameless=nameless)
    unknown = "REMOTE_ADDR" in facts

    # One function and not one for each concern: the fastest servers need little more for a request than four calls.
    def adapted(environ: dict[str, Any], start_response: Any) -> Any:
        environ.update(facts)
        if "QUERY_STRING" not in environ:  # PEP 3333 lets these be absent, and apps do not expect that
            environ["QUERY_STRING"] = ""
        if "SCRIPT_NAME" not in environ:
            environ["SCRIPT_NAME"] = ""
        if unknown:
            environ.pop("REMOTE_PORT", None)
            environ.pop("REMOTE_HOST", None)
        noted: Any = ()
        is_head = not heads and environ["REQUEST_METHOD"] == "HEAD"

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal noted
            noted = headers
            # Servers end a body of unknown length by a last chunk, also where there is no body: so let nothing follow.
            if (tell and worker.stopping) or (is_head and not closes and not _has_length(headers)):
                headers = [*headers, CLOSE]
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        result = app(environ, start)
        if is_head:
            return _without_body(result)
        if type(result) is list:
            return result
        wrapper = environ.get("wsgi.file_wrapper")
        return result if wrapper is not None and type(result) is wrapper else may_end(result, lambda: noted, worker)

    return adapted


def _has_length(headers: Any) -> bool:
    return any(name.lower() == "content-length" for name, _ in headers)


def _facts(sock: socket.socket, worker: Worker, *, nameless: bool) -> dict[str, Any]:
    """What stands in every environ."""
    name, port = host_and_port(sock)
    facts: dict[str, Any] = {
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "wsgi.multiprocess": worker.job.workers > 1,
        "wsgi.errors": sys.stderr,
    }
    is_unix = sock.family == socket.AF_UNIX
    if is_unix or nameless:
        facts["REMOTE_ADDR"] = ""
    if nameless and not is_unix:
        facts["trapeze.nameless"] = True  # or it would be taken for a Unix peer, who is trusted more
    return facts


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
