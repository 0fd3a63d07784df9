"""Accepting on inherited sockets: one at a time, not without room, and not in a circle when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from trapeze_backends import loops
from trapeze_backends.loops import Acceptor

from tests.support.server import Listener, listen_tcp


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = listen_tcp()
    made.sock.setblocking(False)
    yield made
    made.sock.close()


class Scarce:
    """A listener whose accept fails for a while."""

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self.sock = sock
        self.errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def accept(self) -> Any:
        if self.errors:
            raise OSError(self.errors.pop(0), "no")
        return self.sock.accept()


async def turns(count: int = 5) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


def client(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.sock.getsockname())


def test_one_in_each_turn(listener: Listener) -> None:
    clients = [client(listener) for _ in range(3)]
    counts: list[int] = []

    async def run() -> None:
        taken: list[socket.socket] = []
        acceptor = Acceptor([listener.sock], lambda place, sock, address: taken.append(sock))
        acceptor.start()
        while len(taken) < 3:
            await asyncio.sleep(0)
            counts.append(len(taken))
        assert not any(sock.getblocking() for sock in taken)
        acceptor.stop()
        for sock in taken:
            sock.close()

    asyncio.run(run())
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(counts))
    for sock in clients:
        sock.close()


def test_without_room_it_waits_to_be_told(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PATIENCE", 60.0)
    sock = client(listener)

    async def run() -> None:
        taken: list[socket.socket] = []
        room = False
        acceptor = Acceptor([listener.sock], lambda place, sock, address: taken.append(sock), lambda: room)
        acceptor.start()
        await turns()
        acceptor.look()
        await turns()
        assert taken == []
        room = True
        acceptor.look()
        await turns()
        assert len(taken) == 1
        acceptor.stop()
        acceptor.look()  # by a request that is finished in the drain
        taken[0].close()

    asyncio.run(run())
    sock.close()


def test_where_requests_get_finished_a_new_one_gets_in(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PATIENCE", 0.01)
    clients = [client(listener) for _ in range(2)]

    async def run() -> None:
        finished = 0
        arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
        acceptor = Acceptor(
            [listener.sock], lambda place, sock, address: arrived.put_nowait(sock), lambda: False, lambda: finished
        )
        acceptor.start()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(arrived.get(), 0.1)
        finished = 1
        (await asyncio.wait_for(arrived.get(), 5)).close()
        acceptor.stop()
        assert arrived.empty(), "one only"

    asyncio.run(run())
    for sock in clients:
        sock.close()


def test_out_of_descriptors_it_rests(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    sock = client(listener)

    async def run() -> None:
        arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
        scarce: Any = Scarce(listener.sock, errno.ECONNABORTED, errno.EMFILE)
        acceptor = Acceptor([scarce], lambda place, sock, address: arrived.put_nowait(sock))
        acceptor.start()
        await turns(20)
        assert arrived.empty()
        (await asyncio.wait_for(arrived.get(), 5)).close()
        acceptor.stop()

    asyncio.run(run())
    assert capsys.readouterr().err.count("cannot accept") == 1
    sock.close()
