"""The smallest HTTP client that measures what it says: one request on one new connection, over TCP or a Unix socket."""

from __future__ import annotations

import socket
from typing import NamedTuple

__all__ = ["Answer", "Refused", "get"]


class Refused(ConnectionError):
    """Nobody listens (yet)."""


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    body: bytes


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
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(address)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise Refused(str(error)) from None
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return _read(sock)


def _read(sock: socket.socket) -> Answer:
    """Read one answer that has a Content-Length, or ends with the connection."""
    data = b""
    want = None
    while want is None or len(data) < want:
        piece = sock.recv(1 << 18)
        if not piece:
            break
        data += piece
        if want is None and (end := data.find(b"\r\n\r\n")) >= 0:
            want = _whole(data[:end])
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or (want is not None and len(data) < want):
        raise ConnectionResetError(f"an incomplete answer of {len(data)} bytes")
    return Answer(int(head.split(None, 2)[1]), body)


def _whole(head: bytes) -> int | None:
    """Length of the whole answer, in bytes; None if it ends with the connection."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return len(head) + 4 + int(value)
    return None
