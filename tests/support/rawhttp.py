"""Speak to a control door by raw sockets."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from tests.support.fakedoor import FakeDoor

__all__ = ["HOST", "ask", "call", "receive", "receive_until", "status", "unchunk"]

HOST = b"Host: x\r\n"


def receive(sock: socket.socket) -> bytes:
    """Everything until the end."""
    data = b""
    with contextlib.suppress(ConnectionResetError):  # it was closed before all we sent was read
        while piece := sock.recv(65536):
            data += piece
    return data


def ask(fake: FakeDoor, request: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    with fake.connect() as sock:
        with contextlib.suppress(BrokenPipeError):  # the answer may be there before all is sent
            sock.sendall(request)
        return receive(sock)


def call(fake: FakeDoor, method: str, target: str) -> tuple[int, Any]:
    """One request on a connection of its own: status and JSON, or the lines of a stream."""
    answer = ask(fake, f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        return status(answer), [json.loads(line) for line in unchunk(body).splitlines()]
    return status(answer), json.loads(body)


def status(answer: bytes) -> int:
    """The status code of an answer."""
    return int(answer.split(b" ", 2)[1])


def unchunk(body: bytes) -> bytes:
    """The content of a chunked body; AssertionError if it was cut off."""
    found = []
    at = 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        length = int(body[at:end], 16)
        found.append(body[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
        if length == 0:
            assert at == len(body)
            return b"".join(found)
    raise AssertionError(f"the stream was cut off after {found[-1:]!r}")


def receive_until(sock: socket.socket, end: bytes) -> bytes:
    """Everything until it ends with *end*; AssertionError if the connection ends before."""
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert piece, f"it ended after {data[-200:]!r}"
        data += piece
    return data
