"""The stand-in at the control door: who asks for the status is answered, everybody else when it is dismissed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trapeze import doorman
from trapeze.doorman import CLIENTS, Doorman, post

STATUS = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstatus"
AGAIN = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nagain"


class Post:
    """One that stands there, in a thread."""

    def __init__(self, path: Path, admits: Callable[[int], bool]) -> None:
        self.path = str(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(200)
        hears, self.dismisses = os.pipe()
        self.hears = hears
        man = Doorman(self.listener, hears, STATUS, AGAIN, admits)
        self.thread = threading.Thread(target=man.run)
        self.thread.start()

    def ask(self, said: bytes) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(self.path)
        client.sendall(said)
        return client

    def dismiss(self) -> None:
        os.close(self.dismisses)
        self.dismisses = -1
        self.thread.join(10)
        assert not self.thread.is_alive()

    def close(self) -> None:
        if self.dismisses >= 0:
            self.dismiss()
        os.close(self.hears)
        self.listener.close()


@pytest.fixture
def stands(tmp_path: Path) -> Iterator[Callable[..., Post]]:
    made: list[Post] = []

    def make(admits: Callable[[int], bool] = lambda uid: uid == os.geteuid()) -> Post:
        made.append(Post(tmp_path / "door", admits))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answer(client: socket.socket) -> bytes:
    with client, client.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize("said", [b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /status HTTP/1.0\r\n\r\n"])
def test_status_is_answered_at_once(said: bytes, stands: Callable[..., Post]) -> None:
    post = stands()
    assert answer(post.ask(said)) == STATUS
    assert answer(post.ask(said)) == STATUS, "and the next one's"


def test_request_may_come_in_pieces(stands: Callable[..., Post]) -> None:
    post = stands()
    client = post.ask(b"GET /st")
    assert answer(post.ask(b"GET /status HTTP/1.1\r\n\r\n")) == STATUS, "nobody waits for the slow one"
    client.sendall(b"atus HTTP/1.1\r\n\r\n")
    assert answer(client) == STATUS


@pytest.mark.parametrize("said", [b"POST /reload HTTP/1.1\r\n\r\n", b"GET /events HTTP/1.1\r\n\r\n", b"GET /stat"])
def test_everybody_else_waits_until_it_is_dismissed(said: bytes, stands: Callable[..., Post]) -> None:
    post = stands()
    client = post.ask(said)
    assert answer(post.ask(b"GET /status HTTP/1.1\r\n\r\n")) == STATUS, "it has seen the other one"
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.settimeout(10)
    post.dismiss()
    assert answer(client) == AGAIN


def test_client_that_goes_is_forgotten(stands: Callable[..., Post]) -> None:
    post = stands()
    post.ask(b"GET /sta").close()
    post.ask(b"POST /reload HTTP/1.1\r\n\r\n").close()
    assert answer(post.ask(b"GET /status HTTP/1.1\r\n\r\n")) == STATUS


def test_strangers_are_not_let_in(stands: Callable[..., Post]) -> None:
    post = stands(lambda uid: False)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(post.path)
    with client:
        assert client.recv(1) == b""


def test_too_many_wait_in_the_queue_of_the_socket(stands: Callable[..., Post]) -> None:
    post = stands()
    inside = [post.ask(b"GET /events HTTP/1.1\r\n\r\n") for _ in range(CLIENTS - 1)]
    assert answer(post.ask(b"GET /status HTTP/1.1\r\n\r\n")) == STATUS, "so all of these are in"
    last, outside = (post.ask(b"GET /status HTT") for _ in range(2))
    post.dismiss()
    assert [answer(client) for client in inside] == [AGAIN] * (CLIENTS - 1)
    left, _ = post.listener.accept()  # the new program's
    left.close()
    last.close()
    outside.close()


def test_it_does_not_stay_for_ever(stands: Callable[..., Post], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever should dismiss it may have failed to."""
    monkeypatch.setattr(doorman, "AT_MOST", 0.05)
    post = stands()
    post.thread.join(10)
    assert not post.thread.is_alive()


def test_a_child_holds_nothing_but_the_door(tmp_path: Path) -> None:
    """A pipe of ours ends although the child lives; the child ends when it is dismissed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "door"))
    listener.listen()
    read, write = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    dismisses = post(listener, STATUS, AGAIN, lambda uid: True)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(tmp_path / "door"))
            client.sendall(b"GET /status HTTP/1.1\r\n\r\n")
            with client.makefile("rb") as stream:
                assert stream.read() == STATUS
        os.close(write)
        assert os.read(read, 1) == b"", "nobody else has it"
    finally:
        os.close(dismisses)
        pid, status = os.waitpid(-1, 0)
        listener.close()
        os.close(read)
    assert pid and status == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
