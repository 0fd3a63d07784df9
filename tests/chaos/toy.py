"""A server that does to each connection what the test says: resets, doubles, cuts, answers late or not at all."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

__all__ = ["Asked", "Behaviour", "answer", "read", "reset", "toy"]


class Asked(NamedTuple):
    """A request that the toy has read."""

    id: str
    size: int
    body: bytes


Behaviour = Callable[[socket.socket, threading.Event], None]
"""What is done to a connection; the event says that the test is over."""


def read(sock: socket.socket) -> Asked | None:
    """Read one request; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    target = head.split()[1].decode().partition("?")[2]
    query = dict(pair.split("=") for pair in target.split("&"))
    fields = dict(line.lower().split(b": ") for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", 0)):
        body += sock.recv(65536)
    return Asked(query["id"], int(query["n"]), body)


def answer(asked: Asked, *, status: str = "200 OK", ident: str = "", pid: int = 1, close: bool = False) -> bytes:
    """What the app would answer."""
    name = ident or asked.id
    line = f"{name} {pid} 1 1 {zlib.crc32(asked.body)}\n".encode()
    body = line + (name.encode() * (asked.size // len(name) + 1))[: asked.size]
    connection = "Connection: close\r\n" if close else ""
    return f"HTTP/1.1 {status}\r\n{connection}Content-Length: {len(body)}\r\n\r\n".encode() + body


def reset(sock: socket.socket) -> None:
    """Close it by a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def toy(*behaviours: Behaviour) -> Iterator[str]:
    """Serve each connection by the next behaviour, the last of them for all that follow; yields the address."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def one(behaviour: Behaviour, sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            behaviour(sock, over)

    def serve(listener: socket.socket) -> None:
        for number in range(10_000):
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            behaviour = behaviours[min(number, len(behaviours) - 1)]
            threads.append(threading.Thread(target=one, args=(behaviour, sock), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        accepting = threading.Thread(target=serve, args=(listener,), daemon=True)
        accepting.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(10)
