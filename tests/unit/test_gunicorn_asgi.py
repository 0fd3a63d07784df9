"""When a connection of gunicorn's asgi class is idle: not a server, only what the drain looks at."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from trapeze_backends.gunicorn_asgi import _has_begun


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def connection(sock: socket.socket, *, parsed: bool = False, buffered: bytes = b"", state: str = "complete") -> Any:
    ready = asyncio.Event()
    if parsed:
        ready.set()
    transport = SimpleNamespace(get_extra_info={"socket": sock}.get)
    parser = SimpleNamespace(_buffer=buffered, _state=state)
    return SimpleNamespace(_request_ready=ready, _callback_parser=parser, transport=transport)


def test_nothing_has_come(pair: tuple[socket.socket, socket.socket]) -> None:
    assert not _has_begun(connection(pair[0]))


def test_unread(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"GET")
    assert _has_begun(connection(pair[0]))


def test_read_in_part(pair: tuple[socket.socket, socket.socket]) -> None:
    assert _has_begun(connection(pair[0], buffered=b"GE"))
    assert _has_begun(connection(pair[0], state="headers"))


def test_parsed_in_this_turn_of_the_loop(pair: tuple[socket.socket, socket.socket]) -> None:
    """Read, parsed, and the task that serves it has not run: closing now would lose a request."""
    assert _has_begun(connection(pair[0], parsed=True))
