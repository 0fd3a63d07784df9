"""A Redis client of one page: the RESP protocol over a socket, so that the example needs no package."""

from __future__ import annotations

import os
import socket
from typing import Self

Reply = str | int | None | list["Reply"]


class RedisError(Exception):
    """Redis answered with an error."""


class Redis:
    """One connection, blocking."""

    def __init__(self, address: str) -> None:
        if ":" in address:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host, int(port)))
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address)
        self._stream = self._socket.makefile("rb")

    @classmethod
    def from_environment(cls) -> Self:
        """Connect to REDIS_SOCKET: a path, or HOST:PORT."""
        return cls(os.environ.get("REDIS_SOCKET", "127.0.0.1:6379"))

    def __call__(self, *words: str | int) -> Reply:
        """Send one command and wait for its answer; raises RedisError or OSError."""
        parts = [str(word).encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
        return self._reply()

    def _reply(self) -> Reply:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("Redis has closed the connection")
        mark, rest = line[:1], line[1:-2].decode()
        if mark == b"+":
            return rest
        if mark == b"-":
            raise RedisError(rest)
        if mark == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if mark == b"*":
            return [self._reply() for _ in range(size)]
        return self._stream.read(size + 2)[:-2].decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()
        self._socket.close()
