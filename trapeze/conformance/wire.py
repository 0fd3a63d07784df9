"""An HTTP/1.1 client, one step at a time, that sends what it is told and sees what comes back."""

from __future__ import annotations

import socket
from typing import Any, NamedTuple, Self

__all__ = ["Answer", "Broken", "Connection", "head"]


class Broken(AssertionError):
    """What came back is no answer; the text says what it is."""


class Answer(NamedTuple):
    """One whole answer."""

    status: int
    version: str
    headers: list[tuple[str, str]]
    """Names in lower case, in the order in which they came."""
    body: bytes

    def get(self, name: str) -> str | None:
        """The first value of a header, in lower case."""
        return next((value.lower() for header, value in self.headers if header == name), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header, as they came."""
        return [value for header, value in self.headers if header == name]


def head(method: str, path: str, **headers: str) -> bytes:
    """The head of a request; `_` in a header's name stands for `-`."""
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in {"Host": "example.com", **headers}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Connection:
    """One connection. Everything it waits for has a limit: `TimeoutError`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._stream = sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """One request with its answer."""
        if body:
            headers.setdefault("Content_Length", str(len(body)))
        self.send(head(method, path, **headers) + body)
        return self.answer(method)

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, b"", **headers)

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer.

        Raises:
            Broken: the connection ended before, or it is none.
        """
        line = self._line()
        parts = line.split(" ", 2)
        if not parts[0].startswith("HTTP/1.") or len(parts) < 2 or not parts[1].isdecimal():
            raise Broken(f"no status line: {line!r}")
        status, headers = int(parts[1]), []
        while header := self._line():
            name, colon, value = header.partition(":")
            if not colon:
                raise Broken(f"no header: {header!r}")
            headers.append((name.lower(), value.strip()))
        if 100 <= status < 200 and status != 101:
            return self.answer(method)
        answer = Answer(status, parts[0], headers, b"")
        return answer._replace(body=b"" if method == "HEAD" or status in (101, 204, 304) else self._body(answer))

    def _body(self, answer: Answer) -> bytes:
        if answer.get("transfer-encoding") == "chunked":
            return self._chunks()
        length = answer.get("content-length")
        if length is None:
            return self._stream.read()
        body = self._stream.read(int(length))
        if len(body) != int(length):
            raise Broken(f"the body ended after {len(body)} of {length} bytes")
        return body

    def _chunks(self) -> bytes:
        body = b""
        while True:
            text = self._line().partition(";")[0].strip()
            try:
                size = int(text, 16)
            except ValueError:
                raise Broken(f"no size of a chunk: {text!r}") from None
            piece = self._stream.read(size)
            if len(piece) != size:
                raise Broken("the body ended within a chunk")
            body += piece
            if (end := self._line()) and size:
                raise Broken(f"a chunk does not end where it says, but with {end[:20]!r}")
            if size == 0:
                while end:
                    end = self._line()  # trailers
                return body

    def _line(self) -> str:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise Broken("the connection ended without an answer" if not line else f"it ended within {line!r}")
        return line.rstrip(b"\r\n").decode("latin-1")

    def read(self, size: int) -> bytes:
        """So many bytes of what is no HTTP any more.

        Raises:
            Broken: the connection ended before.
        """
        data = self._stream.read(size)
        if len(data) != size:
            raise Broken("the connection ended")
        return data

    def is_closed(self) -> bool:
        """Wait for the other side to close; False when it sends something instead, or stays."""
        try:
            return self._stream.read(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def rest(self, seconds: float) -> bytes:
        """Everything that comes until the other side closes, or is silent for so long."""
        data = b""
        self.sock.settimeout(seconds)
        try:
            while piece := self._stream.read1(65536):
                data += piece
        except (TimeoutError, ConnectionResetError):
            return data
        return data

    def close(self, *_: Any) -> None:
        """Close it."""
        self._stream.close()
        self.sock.close()
