"""How long a request has waited, by what a proxy says; and the queue of a socket, by what the kernel says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trapeze_backends.queued import waited

from trapeze.listenqueue import NOTHING, Queue, look

NOW = 1_764_457_602.5


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("t=1764457602.000", 0.5),  # nginx
        ("1764457602.000", 0.5),
        ("t=1764457602000", 0.5),  # milliseconds
        ("t=1764457602000000", 0.5),  # microseconds
        ("t=1, t=1764457602.000", 0.5),  # the nearest proxy's stands last
        ("t=1764457602.900", 0.0),  # rounded, or a clock that was set
        ("t=1764457610", None),  # another clock
        ("t=5", None),
        ("", None),
        ("t=soon", None),
        ("t=nan", None),
        ("t=inf", None),
        ("t=-inf", None),
    ],
)
def test_waited(said: str, seconds: float | None) -> None:
    assert waited(said, NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.text())
def test_whatever_is_said(said: str) -> None:
    found = waited(said, NOW)
    assert found is None or 0 <= found < 3600


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_queue_of_a_tcp_socket(stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    assert look(sock.fileno()) == NOTHING, "it does not listen"
    sock.listen(3)
    assert look(sock.fileno()) == Queue(0, 3, 0)

    for _ in range(2):
        stack.enter_context(socket.create_connection(sock.getsockname()))

    assert look(sock.fileno()) == Queue(2, 3, 0)
    sock.accept()[0].close()
    assert look(sock.fileno()) == Queue(1, 3, 0)


def test_who_is_turned_away_is_counted(stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    sock.listen(0)
    stack.enter_context(socket.create_connection(sock.getsockname()))
    with pytest.raises(TimeoutError):
        stack.enter_context(socket.create_connection(sock.getsockname(), timeout=0.05))

    found = look(sock.fileno())

    assert found.dropped and found.waiting == 1


@pytest.mark.parametrize("abstract", [False, True])
def test_queue_of_a_unix_socket(abstract: bool, tmp_path: Path, stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(f"\0{tmp_path}" if abstract else str(tmp_path / "s"))
    assert look(sock.fileno()) == NOTHING, "it does not listen"
    sock.listen(5)
    for _ in range(3):
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(sock.getsockname())

    assert look(sock.fileno()) == Queue(3, 5, None)


def test_what_is_no_socket() -> None:
    with open("/dev/null") as file:
        assert look(file.fileno()) == NOTHING
        closed = file.fileno()
    assert look(closed) == NOTHING
