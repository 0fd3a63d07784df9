"""cheroot's parser and its answers, where HTTP wants it otherwise: requests that may be understood in two ways are
refused, and no answer leaves bytes behind that would be taken for the next one's."""

from __future__ import annotations

from io import BufferedReader
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from cheroot import server as theirs
from cheroot import wsgi

from trapeze_backends.ambiguous import framing
from trapeze_backends.chunks import BadChunks, Dechunked

__all__ = ["Gateway", "Request"]

UNREAD = 65536
"""Bytes of a body in chunks that are read to keep the connection, when the app has not read them."""


class _Headers(theirs.HeaderReader):
    """Keeps all values of a header that comes several times; cheroot's own keeps the last."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[bytes, list[bytes]] = {}

    def __call__(self, rfile: Any, hdict: Any = None) -> Any:
        headers = super().__call__(_Lines(rfile, self.found), hdict)
        for name, values in self.found.items():
            if len(values) > 1 and name != b"Content-Length":
                headers[name] = (b"; " if name == b"Cookie" else b", ").join(values)
        return headers


class _Lines:
    """The lines of a head as they come."""

    def __init__(self, rfile: Any, found: dict[bytes, list[bytes]]) -> None:
        self._rfile = rfile
        self._found = found

    def readline(self) -> bytes:
        """One line.

        Raises:
            ValueError: it is no header. One that goes on with another line is none any more (RFC 9112, section 5.2).
        """
        line = bytes(self._rfile.readline())
        name, colon, value = line.partition(b":")
        if colon:
            if name != name.strip() or not name:
                raise ValueError("Illegal header line.")
            self._found.setdefault(name.title(), []).append(value.strip())
        elif line[:1] in (b" ", b"\t"):
            raise ValueError("Illegal header line.")
        return line


class Request(theirs.HTTPRequest):
    """One request and its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.header_reader = _Headers()

    def read_request_headers(self) -> bool:
        """False if the request was refused."""
        if not super().read_request_headers():
            return False
        reason = framing(self._said(b"Content-Length"), self._said(b"Transfer-Encoding"))
        if reason:
            self.simple_response("400 Bad Request", f"The request has {reason}.")
            return False
        words = [word.strip().lower() for word in self.inheaders.get(b"Connection", b"").split(b",")]
        if b"close" in words:  # cheroot knows it in lower case and alone only
            self.close_connection = True
        return True

    def _said(self, name: bytes) -> list[str]:
        return [value.decode("latin-1") for value in self.header_reader.found.get(name, ())]

    def respond(self) -> None:
        """Have the app answer."""
        super().respond()
        if self.chunked_read and not self.close_connection:
            self.close_connection = not self.rfile.end()

    def write(self, chunk: bytes) -> None:
        """Send a piece of the answer's body, if it may have one."""
        if self.method != b"HEAD" and self.status[:3] not in (b"204", b"304"):
            super().write(chunk)


class _Body(BufferedReader):
    """A body in chunks; cheroot's own takes for sizes what others do not, and leaves its end to the next request."""

    def __init__(self, file: Any, limit: int = 0) -> None:
        self._chunks = Dechunked(file, limit)
        super().__init__(self._chunks)

    def end(self) -> bool:
        """Read what the app has not; False if the connection is in no state to be kept."""
        try:
            self.read(UNREAD)
        except BadChunks:
            return False
        return self._chunks.is_over


theirs.ChunkedRFile = _Body


class Gateway(wsgi.Gateway_10):
    """Calls the app."""

    def get_environ(self) -> Any:
        """Slashes that came as %2F are slashes; cheroot leaves them as they came."""
        environ = super().get_environ()
        if b"%2F" in self.req.path:
            environ["PATH_INFO"] = unquote_to_bytes(urlsplit(self.req.uri).path).decode("latin-1")
        return environ

    def respond(self) -> None:
        """An app that exits ends its request, and not a thread of the pool."""
        try:
            super().respond()
        except SystemExit as error:
            raise RuntimeError(f"the app exits ({error.code})") from error
