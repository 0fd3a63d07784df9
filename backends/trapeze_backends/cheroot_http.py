"""cheroot's parser and its answers, where HTTP wants it otherwise: requests that may be understood in two ways are
refused, and no answer leaves bytes behind that would be taken for the next one's."""

from __future__ import annotations

from typing import Any

from cheroot import server as theirs
from cheroot import wsgi

from trapeze_backends.ambiguous import framing

__all__ = ["Gateway", "Request"]

SEVERAL = frozenset([b"Content-Length", b"Transfer-Encoding"])
UNREAD = 65536
"""Bytes of a body in chunks that are read to keep the connection, when the app has not read them."""


class _Headers(theirs.HeaderReader):  # type: ignore[misc]
    """Keeps all values of the headers that say where a request ends."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[bytes, bytes]] = []

    def __call__(self, rfile: Any, hdict: Any = None) -> Any:
        return super().__call__(_Lines(rfile, self.found), hdict)


class _Lines:
    """The lines of a head as they come."""

    def __init__(self, rfile: Any, found: list[tuple[bytes, bytes]]) -> None:
        self._rfile = rfile
        self._found = found

    def readline(self) -> bytes:
        """One line.

        Raises:
            ValueError: it is no header.
        """
        line = bytes(self._rfile.readline())
        name, colon, value = line.partition(b":")
        if not colon or line[:1] in (b" ", b"\t"):
            return line  # the end, a continuation, or what they refuse
        if name != name.strip() or not name:
            raise ValueError("Illegal header line.")
        if name.title() in SEVERAL:
            self._found.append((name.title(), value.strip()))
        return line


class Request(theirs.HTTPRequest):  # type: ignore[misc]
    """One request and its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.header_reader = _Headers()

    def read_request_headers(self) -> bool:
        """False if the request was refused."""
        if not super().read_request_headers():
            return False
        values: dict[bytes, list[str]] = {name: [] for name in SEVERAL}
        for name, value in self.header_reader.found:
            values[name].append(value.decode("latin-1"))
        reason = framing(values[b"Content-Length"], values[b"Transfer-Encoding"])
        if reason:
            self.simple_response("400 Bad Request", f"The request has {reason}.")
            return False
        words = [word.strip().lower() for word in self.inheaders.get(b"Connection", b"").split(b",")]
        if b"close" in words:  # cheroot knows it in lower case and alone only
            self.close_connection = True
        return True

    def respond(self) -> None:
        """Have the app answer."""
        super().respond()
        if self.chunked_read and not self.close_connection:
            self._end_body()

    def _end_body(self) -> None:
        """Read a body in chunks to its end, which cheroot leaves to the next request to find."""
        body = self.rfile
        try:
            if not body.closed:
                body.read(UNREAD)
            if body.closed:
                for _ in body.read_trailer_lines():
                    pass
                return
        except ValueError:  # not well formed
            pass
        self.close_connection = True

    def write(self, chunk: bytes) -> None:
        """Send a piece of the answer's body, if it may have one."""
        if self.method != b"HEAD" and self.status[:3] not in (b"204", b"304"):
            super().write(chunk)


class Gateway(wsgi.Gateway_10):  # type: ignore[misc]
    """Calls the app."""

    def respond(self) -> None:
        """An app that exits ends its request, and not a thread of the pool."""
        try:
            super().respond()
        except SystemExit as error:
            raise RuntimeError(f"the app exits ({error.code})") from error
