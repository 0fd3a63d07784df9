"""What goes around the app in uWSGI: heads that can be read in two ways are refused, and answers are whole.

uWSGI hands on what it has parsed without much judgement, and writes what it gets. So it is left to us to refuse, to
read bodies that come in chunks, to show where an answer ends, and to answer 500. The common case, an answer that is a
list, costs 2 us: uWSGI itself takes 30.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from typing import Any

from trapeze_backends.endless import may_end
from trapeze_backends.worker import Worker
from trapeze_backends.wsgi_common import host_and_port

__all__ = ["around", "place_of", "refusal"]

REST = 1 << 20
"""Bytes of a body that are read although the app did not want them: a connection that is closed before is reset, and
the answer may be lost with it."""

STRANGE = ("400 Bad Request", [("Content-Length", "0")])
UNKNOWN = ("501 Not Implemented", [("Content-Length", "0")])


def place_of(sock: socket.socket) -> Any:
    """What a connection has in common with its listener: the path, or family and port (0.0.0.0 is no local address)."""
    name = sock.getsockname()
    return (sock.family, name[1]) if isinstance(name, tuple) else name


def around(app: Any, sockets: list[socket.socket], worker: Worker) -> Any:
    """Return what uWSGI is to call."""
    listeners = {place_of(sock): (*host_and_port(sock), sock.family == socket.AF_UNIX) for sock in sockets}
    name, port, is_unix = next(iter(listeners.values()))
    several_or_unix = is_unix or len(listeners) > 1
    multiprocess = worker.job.workers > 1

    def outermost(environ: dict[str, Any], start_response: Any) -> Any:
        head: Any = None

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal head
            head = status, headers
            try:
                return start_response(status, headers)
            except OSError:  # what has been sent cannot be taken back
                if exc_info:
                    raise exc_info[1].with_traceback(exc_info[2]) from None
                raise

        if refused := refusal(environ):
            start_response(*refused)
            return ()
        environ["SERVER_NAME"], environ["SERVER_PORT"] = name, port
        environ["wsgi.multiprocess"] = multiprocess
        environ["wsgi.url_scheme"] = "http"  # it believes an X-Forwarded-Proto of anybody's
        if several_or_unix:
            _tell_listener(environ, listeners)
        body = _body(environ) if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ else None
        try:
            result = app(environ, start)
        except Exception:
            return _failed(start_response)
        if body is None and (type(result) is list or type(result) is tuple) and environ["REQUEST_METHOD"] != "HEAD":
            return result
        result = may_end(result, lambda: head[1] if head else (), worker)
        return _Pieces(environ, start_response, lambda: head, result, body)

    return outermost


def _tell_listener(environ: dict[str, Any], listeners: dict[Any, tuple[str, str, bool]]) -> None:
    """uWSGI does not tell which listener a request came from, but which connection."""
    found = next(iter(listeners.values()))
    if len(listeners) > 1:
        with socket.socket(fileno=os.dup(sys.modules["uwsgi"].connection_fd())) as connection:
            found = listeners.get(place_of(connection), found)
    environ["SERVER_NAME"], environ["SERVER_PORT"], is_unix = found
    if is_unix:
        environ["REMOTE_ADDR"] = ""


def _body(environ: dict[str, Any]) -> Any:
    """Return the body of a request, from now on readable as WSGI wants it; None if it has none."""
    if not (environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ):
        return None
    if "HTTP_TRANSFER_ENCODING" in environ:
        environ["wsgi.input"] = io.BufferedReader(_Chunks())
        environ["wsgi.input_terminated"] = True
        environ["CONTENT_LENGTH"] = ""  # if there was one as well, the chunks count (RFC 9112, section 6.3)
    if environ.get("HTTP_EXPECT", "").lower() == "100-continue":
        with contextlib.suppress(OSError):
            os.write(sys.modules["uwsgi"].connection_fd(), b"HTTP/1.1 100 Continue\r\n\r\n")
    return environ["wsgi.input"]


def refusal(environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the answer to a head that somebody before us may have read differently; None for an ordinary one.

    uWSGI takes a blank before the colon into the name, a bare LF into the value, and the first of several lengths.
    """
    names = "".join(environ)
    if ("\n" in _values(environ) and _is_cut(environ)) or " " in names or "\t" in names or "PATH_INFO" not in environ:
        return STRANGE
    length = environ.get("CONTENT_LENGTH")
    if length and not (length.isascii() and length.isdecimal()):
        return STRANGE
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    return UNKNOWN if coding and coding.strip().lower() != "chunked" else None


def _values(environ: dict[str, Any]) -> str:
    """What the client has sent, in one text. It stands before what uWSGI adds, which is always as much."""
    values = list(environ.values())
    try:
        return "".join(values[: -_added[0]])
    except TypeError:  # another order: a loop over all of them takes three times as long
        _added[0] = len(values) - list(environ).index("wsgi.input")
        return "".join([value for value in values if value.__class__ is str])


_added = [1]
"""How many entries uWSGI adds to what the client has sent: found with the first request."""


def _is_cut(environ: dict[str, Any]) -> bool:
    """Goes a header over two lines? The path may have a %0A in it."""
    return any("\n" in value for name, value in environ.items() if value.__class__ is str and name != "PATH_INFO")


def _failed(start_response: Any) -> list[bytes]:
    """The app has raised an error. What has been begun ends there, anything else is a 500."""
    text = b"Internal Server Error\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))]
    try:
        start_response("500 Internal Server Error", headers)
    except OSError:
        text = b""
    sys.excepthook(*sys.exc_info())
    return [text]


class _Pieces:
    """An answer that comes piece by piece, or to a request with a body, or to HEAD.

    Args:
        environ: of the request.
        start_response: uWSGI's own, which may be called again as long as nothing was sent.
        head: returns status and headers, None as long as the app has not said them.
        result: what the app has returned.
        body: of the request, None if it has none.
    """

    def __init__(self, environ: dict[str, Any], start_response: Any, head: Any, result: Any, body: Any) -> None:
        self._environ = environ
        self._start_response = start_response
        self._head = head
        self._result = result
        self._body = body

    def __iter__(self) -> Any:
        begun = chunked = False
        is_head = self._environ["REQUEST_METHOD"] == "HEAD"
        try:
            for data in self._result:
                if not begun:
                    begun, chunked = True, self._is_chunked() and not is_head
                if is_head:
                    return
                if data:
                    yield b"%x\r\n%b\r\n" % (len(data), data) if chunked else data
            if self._head() is None:
                raise RuntimeError("the app has not called start_response")
        except Exception:
            if begun:
                raise
            yield from _failed(self._start_response)
        else:
            if chunked:
                yield b"0\r\n\r\n"

    def _is_chunked(self) -> bool:
        """Show the end of the answer by chunks if nothing else does: then one that was cut is told from a whole one."""
        status, headers = self._head()
        names = {name.lower() for name, _ in headers}
        if names & {"content-length", "transfer-encoding"} or status[:3] in ("204", "304"):
            return False
        if self._environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
            return False
        try:
            self._start_response(status, [*headers, ("Transfer-Encoding", "chunked")])
        except OSError:  # the app has begun with write()
            return False
        return True

    def close(self) -> None:
        """The app's own; then what it left of the body."""
        try:
            if hasattr(self._result, "close"):
                self._result.close()
        finally:
            if self._body is not None:
                _read_rest(self._body)


def _read_rest(body: Any) -> None:
    try:
        left = REST
        while left > 0 and (data := body.read(min(left, 65536))):
            left -= len(data)
    except (OSError, ValueError):
        return  # the client has gone, or keeps us waiting


class _Chunks(io.RawIOBase):
    """A body in chunks."""

    _left = b""

    def readable(self) -> bool:
        """Asked by what buffers it."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some of it."""
        data = self._left or sys.modules["uwsgi"].chunked_read()
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        self._left = data[size:]
        return size
