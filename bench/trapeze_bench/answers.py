"""Where an answer ends: for clients that ask one request after the other on a connection. No IO."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Malformed", "Plain", "Quick", "Reader", "reader"]


class Malformed(ValueError):
    """This is no HTTP."""


class Reader(Protocol):
    """Reads one answer, in pieces as they come."""

    status: int
    """0 until it is known."""
    complete: bool
    extra: bool
    """There are bytes behind it, which nobody has asked for."""
    closes: bool
    """The server closes the connection after it."""
    open_ended: bool
    """It ends with the connection, and no length was announced."""

    def feed(self, data: bytes) -> bool:
        """Read on. Return whether it is complete.

        Raises:
            Malformed: it is no answer.
        """


class Plain:
    """In Python: it looks at the head alone, and counts the rest."""

    def __init__(self) -> None:
        self.status = 0
        self.complete = self.extra = self.closes = self.open_ended = False
        self._kept = b""
        self._left = -1
        """Bytes of the body that are still to come; -1: chunks, or until the end."""
        self._chunked = False
        self._skip = 0
        self._trailers = False

    def feed(self, data: bytes) -> bool:
        """As of `Reader`."""
        if not self.status:
            data = self._head(data)
            if not self.status:
                return False
        if self._chunked:
            self._chunks(data)
        elif self._left >= 0:
            self.extra = len(data) > self._left
            self._left = max(self._left - len(data), 0)
            self.complete = self._left == 0
        return self.complete

    def _head(self, data: bytes) -> bytes:
        """Read the head; return what follows it."""
        self._kept += data
        end = self._kept.find(b"\r\n\r\n")
        if end < 0:
            if self._kept[:5] != b"HTTP/"[: len(self._kept)] or len(self._kept) > 1 << 18:
                raise Malformed("this is no head of an answer")
            return b""
        head, rest = self._kept[:end].lower() + b"\r\n", self._kept[end + 4 :]
        self._kept = b""
        try:
            self.status = int(head.split(None, 2)[1])
            self._chunked = b"chunked" in _field(head, b"transfer-encoding")
            length = _field(head, b"content-length")
            self._left = int(length) if length and not self._chunked else -1
        except (IndexError, ValueError):
            raise Malformed("this is no head of an answer") from None
        if self.status in (204, 304):
            self._left = 0
        self.open_ended = self._left < 0 and not self._chunked
        connection = _field(head, b"connection")
        old = head.startswith(b"http/1.0") and b"keep-alive" not in connection
        self.closes = self.open_ended or old or b"close" in connection
        return rest

    def _chunks(self, data: bytes) -> None:
        data = self._kept + data
        self._kept = b""
        while not self.complete:
            if self._skip:
                taken = min(self._skip, len(data))
                self._skip -= taken
                data = data[taken:]
                if self._skip:
                    return
            line, found, rest = data.partition(b"\r\n")
            if not found:
                self._kept = data
                return
            data = rest
            if not self._trailers:
                self._begin_chunk(line)
            elif not line:
                self.complete, self.extra = True, bool(data)

    def _begin_chunk(self, line: bytes) -> None:
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise Malformed("this is no chunk") from None
        self._skip = size + 2 if size else 0
        self._trailers = size == 0


def _field(head: bytes, name: bytes) -> bytes:
    """The value of a field in a head of small letters; empty if it is not there."""
    begin = head.find(b"\r\n" + name + b":")
    if begin < 0:
        return b""
    begin += len(name) + 3
    return head[begin : head.index(b"\r\n", begin)].strip()


class Quick:
    """By httptools, which is C."""

    def __init__(self) -> None:
        import httptools

        self.status = 0
        self.complete = self.extra = self.closes = self.open_ended = False
        self._framed = False
        self._parser = httptools.HttpResponseParser(self)
        self._error: type[Exception] = httptools.HttpParserError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()
        self.open_ended = not self._framed and self.status not in (204, 304)
        self.closes = self.open_ended or not self._parser.should_keep_alive()

    def on_message_begin(self) -> None:
        """Called by the parser: of a second answer, too."""
        self.extra = self.complete

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.complete = True

    def feed(self, data: bytes) -> bool:
        """As of `Reader`."""
        try:
            self._parser.feed_data(data)
        except self._error:
            if not self.complete:
                raise Malformed("this is no answer") from None
            self.extra = True  # what follows it is not even one
        return self.complete


def reader() -> type[Plain] | type[Quick]:
    """The quickest there is."""
    try:
        import httptools  # noqa: F401
    except ModuleNotFoundError:
        return Plain
    return Quick
