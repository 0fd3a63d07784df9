"""Sockets as `trapeze.sockets` opens them, for the tests that look at them; and sockets of somebody else."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from trapeze.errors import BindError
from trapeze.sockets import ListenSocket, open_sockets
from trapeze.spec import SocketSpec

__all__ = ["Bind", "bind_fixture", "live_socket", "refused", "talks"]

Bind = Callable[..., list[ListenSocket]]


@pytest.fixture(name="bind")
def bind_fixture() -> Iterator[Bind]:
    """Open the addresses of a section; they are closed after the test."""
    opened: list[ListenSocket] = []

    def open_(*addresses: str, replaces: list[ListenSocket] | None = None, **options: object) -> list[ListenSocket]:
        spec = SocketSpec(bind=list(addresses), **options)  # type: ignore[arg-type]
        found = open_sockets("web", spec, systemd={}, replaces=replaces or [])
        opened.extend(found)
        return found

    yield open_
    for each in opened:
        each.close()


def refused(*addresses: str, systemd: Mapping[str, list[int]] | None = None, **options: object) -> BindError:
    """The error of a section that cannot be opened."""
    with pytest.raises(BindError) as caught:
        open_sockets("web", SocketSpec(bind=list(addresses), **options), systemd=systemd or {})  # type: ignore[arg-type]
    return caught.value


def talks(listener: ListenSocket) -> bool:
    """Does a connection come through?"""
    with socket.socket(listener.sock.family, socket.SOCK_STREAM) as client:
        client.connect(listener.sock.getsockname() if listener.file is None else listener.file.path)
        connection, _ = listener.sock.accept()
        with connection:
            client.sendall(b"x")
            return connection.recv(1) == b"x"


@contextlib.contextmanager
def live_socket(path: Path, backlog: int = 8) -> Iterator[socket.socket]:
    """Listen on a path as somebody else would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen(backlog)
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)
