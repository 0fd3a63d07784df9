"""The smallest HTTP client that measures what it says: one request on one new connection, over TCP or a Unix socket."""

from __future__ import annotations

import socket
from typing import NamedTuple

__all__ = ["Answer", "Head", "Refused", "answer", "ask", "asked", "get", "head", "post"]


class Refused(ConnectionError):
    """Nobody listens (yet)."""


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes


class Head(NamedTuple):
    """What the head of an answer says."""

    status: int
    whole: int | None
    """Length of the whole answer in bytes; None if it ends with the connection."""
    closes: bool
    """The server will close the connection after it."""


def get(address: tuple[str, int] | str, path: str = "/", timeout: float = 10.0) -> Answer:
    """Ask on a new connection and read the whole answer.

    Args:
        address: host and port, or the path of a Unix socket.
        path: what to ask for.
        timeout: seconds for the connection and for each read.

    Raises:
        Refused: nobody listens there.
        ConnectionError, TimeoutError: there was no complete answer.
    """
    return _ask(address, f"GET {path} HTTP/1.1\r\n", timeout)


def post(address: tuple[str, int] | str, path: str, timeout: float) -> Answer:
    """Send a POST without a body; otherwise as `get`."""
    return _ask(address, f"POST {path} HTTP/1.1\r\nContent-Length: 0\r\n", timeout)


def asked(address: tuple[str, int] | str, path: str = "/", timeout: float = 10.0) -> socket.socket:
    """Ask on a new connection, as `get` does, without waiting for the answer: it is read by `answer`, or given up."""
    return _sent(address, _whole(f"GET {path} HTTP/1.1\r\n"), timeout)


def answer(sock: socket.socket, timeout: float = 10.0) -> Answer:
    """Read the whole answer of a connection from `asked`, and close it. Arguments and errors as those of `get`."""
    with sock:
        sock.settimeout(timeout)
        return _read(sock)


def _ask(address: tuple[str, int] | str, start: str, timeout: float) -> Answer:
    return ask(address, _whole(start), timeout)


def ask(address: tuple[str, int] | str, data: bytes, timeout: float) -> Answer:
    """Send a request, as it is, that has the server close the connection; otherwise as `get`."""
    with _sent(address, data, timeout) as sock:
        return _read(sock)


def _whole(start: str) -> bytes:
    return f"{start}Host: localhost\r\nConnection: close\r\n\r\n".encode()


def _sent(address: tuple[str, int] | str, data: bytes, timeout: float) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        try:
            sock.connect(address)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise Refused(str(error)) from None
        sock.sendall(data)
    except BaseException:
        sock.close()
        raise
    return sock


def _read(sock: socket.socket) -> Answer:
    """Read one answer that has a Content-Length, or ends with the connection."""
    data = b""
    found = None
    while found is None or found.whole is None or len(data) < found.whole:
        piece = sock.recv(1 << 18)
        if not piece:
            break
        data += piece
        found = found or head(data)
    if found is None or (found.whole is not None and len(data) < found.whole):
        raise ConnectionResetError(f"an incomplete answer of {len(data)} bytes")
    start, _, body = data.partition(b"\r\n\r\n")
    return Answer(found.status, _joined(body) if b"\r\ntransfer-encoding: chunked" in start.lower() else body)


def _joined(chunks: bytes) -> bytes:
    """The body without the sizes of its chunks."""
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        if length == 0:
            break
        body += rest[:length]
        chunks = rest[length + 2 :]
    return body


def head(data: bytes) -> Head | None:
    """Read the head of an answer; None if it is not complete yet."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = data[:end].lower().split(b"\r\n")
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    length = fields.get(b"content-length")
    closes = length is None or fields.get(b"connection") == b"close"
    if lines[0].startswith(b"http/1.0") and fields.get(b"connection") != b"keep-alive":
        closes = True
    return Head(int(lines[0].split(None, 2)[1]), None if length is None else end + 4 + int(length), closes)
