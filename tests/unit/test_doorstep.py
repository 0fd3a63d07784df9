"""Closing the doors of a listening socket: nobody new comes, nobody who is there is lost."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.listening import Bind, bind_fixture, live_socket, refused, talks
from trapeze import doorstep
from trapeze.errors import BindError
from trapeze.sockets import ListenSocket, open_sockets
from trapeze.spec import SocketSpec

__all__ = ["bind_fixture"]

Knock = Callable[..., Any]

SOON = 0.2
"""Seconds after which a connection that was not made at once counts as not made; on this machine it takes none."""


@pytest.fixture
def knock() -> Iterator[Knock]:
    """Connect to a socket as a client would; None if nobody opens."""
    made: list[socket.socket] = []

    def connect(listener: ListenSocket, host: str = "") -> socket.socket | None:
        family = socket.AF_INET if host == "127.0.0.1" else listener.sock.family
        client = socket.socket(family, socket.SOCK_STREAM)
        made.append(client)
        client.settimeout(SOON)
        name = listener.sock.getsockname()
        where = listener.file.path if listener.file is not None else (host or name[0], name[1])
        try:
            client.connect(where)
        except (TimeoutError, FileNotFoundError, ConnectionRefusedError):
            return None
        return client

    yield connect
    for each in made:
        each.close()


def waits(listener: ListenSocket) -> bool:
    return listener.waiting


def accept(listener: ListenSocket) -> socket.socket:
    connection, _ = listener.sock.accept()
    return connection


@pytest.fixture(params=["127.0.0.1:0", "[::1]:0", "[::]:0", "unix"])
def listener(request: pytest.FixtureRequest, bind: Bind, run_dir: Path) -> ListenSocket:
    address = f"unix:{run_dir / 'web.sock'}" if request.param == "unix" else request.param
    return bind(address, mode="0600" if request.param == "unix" else None)[0]


def test_those_who_wait_are_let_in_and_nobody_else(listener: ListenSocket, knock: Knock) -> None:
    assert not waits(listener)
    early = knock(listener)
    assert waits(listener)
    assert listener.close_doors()
    assert listener.close_doors(), "a second time changes nothing"
    assert listener.doors_closed
    assert knock(listener) is None
    with accept(listener) as connection:
        early.sendall(b"here")
        assert connection.recv(4) == b"here"
        connection.sendall(b"welcome")
        assert early.recv(7) == b"welcome"
    assert not waits(listener)


def test_doors_open_again(listener: ListenSocket, knock: Knock) -> None:
    listener.close_doors()
    listener.open_doors()
    listener.open_doors()
    assert not listener.doors_closed
    assert listener.intact
    assert talks(listener)


def test_both_families_of_a_dual_stack_socket_are_turned_away(bind: Bind, knock: Knock) -> None:
    listener = bind("[::]:0", dual_stack=True)[0]
    assert knock(listener, "127.0.0.1")
    listener.close_doors()
    assert knock(listener, "127.0.0.1") is None
    assert knock(listener, "::1") is None


def test_handshake_under_way_is_completed(bind: Bind, knock: Knock) -> None:
    """With TCP_DEFER_ACCEPT the kernel waits with the end of the handshake until data has come: half open till then."""
    listener = bind("127.0.0.1:0")[0]
    listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    early = knock(listener)
    assert not waits(listener), "not half open: the test shows nothing"
    listener.close_doors()
    early.sendall(b"here")
    assert waits(listener)
    with accept(listener) as connection:
        assert connection.recv(4) == b"here"


def test_turning_away_twice_and_admitting_twice(bind: Bind) -> None:
    sock = bind("127.0.0.1:0")[0].sock
    doorstep.admit(sock)
    doorstep.turn_away(sock)
    doorstep.turn_away(sock)
    doorstep.admit(sock)
    doorstep.admit(sock)
    sock.close()
    assert not doorstep.waiting(sock)


def test_duplicate_is_the_same_socket(bind: Bind, knock: Knock) -> None:
    first = bind("127.0.0.1:0")[0]
    second = bind(first.address, replaces=[first], backlog=7)[0]
    assert first.identity == second.identity
    assert first.identity != bind("127.0.0.1:0")[0].identity
    first.close_doors()
    assert knock(second) is None
    assert second.doors_closed
    second.open_doors()
    assert not first.doors_closed


def test_borrowed_socket_is_left_alone(knock: Knock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as lent:
        listener = open_sockets("web", SocketSpec(bind=f"fd://{lent.fileno()}"), systemd={})[0]
        again = open_sockets("web", SocketSpec(bind=listener.address), systemd={}, replaces=[listener])[0]
        for each in (listener, again):
            assert not each.close_doors()
            assert knock(each)
            assert waits(each)
            each.close()


def test_abstract_socket_has_no_doors(bind: Bind) -> None:
    listener = bind("unix:@trapeze-doorstep")[0]
    assert not listener.close_doors()
    listener.open_doors()
    assert talks(listener)


# ---- the file of a Unix socket ----


def test_hidden_socket_keeps_its_mode_and_leaves_nothing(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "web.sock"
    listener = bind(f"unix:{path}", mode="0640")[0]
    before = path.stat()
    listener.close_doors()
    assert not path.exists()
    assert [each.name for each in run_dir.iterdir()] == [".web.sock.closed"]
    listener.open_doors()
    assert (path.stat().st_ino, path.stat().st_mode) == (before.st_ino, before.st_mode)
    listener.close_doors()
    listener.close()
    assert list(run_dir.iterdir()) == []


def test_path_that_was_taken_meanwhile_is_not_taken_back(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "web.sock"
    listener = bind(f"unix:{path}")[0]
    listener.close_doors()
    with live_socket(path):
        with pytest.raises(BindError) as caught:
            listener.open_doors()
        assert errno.errorcode[errno.EADDRINUSE] in str(caught.value)
        assert listener.doors_closed
    listener.open_doors()
    assert talks(listener)


def test_file_of_somebody_else_is_not_hidden(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "web.sock"
    listener = bind(f"unix:{path}")[0]
    path.unlink()
    with live_socket(path):
        assert listener.close_doors(), "nobody finds it"
        assert path.exists()


def test_hidden_file_of_one_who_was_killed_is_removed(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "web.sock"
    killed = bind(f"unix:{path}")[0]
    killed.close_doors()
    killed.sock.close()
    bind(f"unix:{path}")
    assert [each.name for each in run_dir.iterdir()] == ["web.sock"]


def test_hidden_file_of_one_who_lives_stays(bind: Bind, run_dir: Path) -> None:
    path = run_dir / "web.sock"
    alive = bind(f"unix:{path}")[0]
    alive.close_doors()
    bind(f"unix:{path}")
    assert sorted(each.name for each in run_dir.iterdir()) == [".web.sock.closed", "web.sock"]
    assert "in use" in str(refused(f"unix:{path}"))
