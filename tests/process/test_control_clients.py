"""The control door and clients that behave badly, slowly or not at all: what they get, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.fakedoor import FakeDoor, Outcome, fake_door
from tests.support.rawhttp import HOST, ask, call, receive, receive_until, status
from tests.support.wait import until
from trapeze import control, door
from trapeze.spec import ControlSpec


@pytest.fixture(name="fake")
def _fake(run_dir: Path) -> Iterator[FakeDoor]:
    with fake_door(run_dir / "run") as made:
        yield made


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /status HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /status HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40 * door.HEADER_LIMIT + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 2 * door.HEADER_LIMIT, 431),
        (b"POST /reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_malformed_requests_are_refused_and_closed(fake: FakeDoor, request_: bytes, code: int) -> None:
    answer = ask(fake, request_)

    assert status(answer) == code
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "usage"
    assert fake.supervisor.asked == []
    until(lambda: fake.clients == 0)


def test_a_large_body_is_refused(fake: FakeDoor) -> None:
    head = b"POST /reload HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (door.BODY_LIMIT + 1)
    with fake.connect() as sock:
        sock.sendall(head + b"x" * (door.BODY_LIMIT + 1))
        answer = receive(sock)

    assert status(answer) == 413
    assert fake.supervisor.asked == []


def test_a_small_body_is_read_over(fake: FakeDoor) -> None:
    answer = ask(
        fake,
        b"POST /reload HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
        b"GET /status HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    )

    assert answer.count(b"HTTP/1.1 202") == 1
    assert answer.count(b"HTTP/1.1 200") == 1


def test_many_requests_at_once_are_answered_in_order(fake: FakeDoor) -> None:
    targets = [f"/services/web/scale?count={number}" for number in range(200)]
    requests = b"".join(f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for target in targets)

    answer = ask(fake, requests + b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")

    assert answer.count(b"HTTP/1.1 202") == 200
    assert [asked[2] for asked in fake.supervisor.asked] == list(range(200))


def test_one_who_sends_ahead_without_end_is_cut_off(fake: FakeDoor) -> None:
    fake.supervisor.outcome = Outcome()
    with fake.connect() as sock:
        sock.sendall(b"POST /reload?wait=60 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.waiting == 1)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(b"x" * 64 * door.AHEAD_LIMIT)
    until(lambda: fake.waiting == 0 and fake.clients == 0)


def test_head(fake: FakeDoor) -> None:
    answer = ask(fake, b"HEAD /status HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")

    assert status(answer) == 200
    assert b"content-length: " in head
    assert body == b""


def test_a_connection_is_kept(fake: FakeDoor) -> None:
    with fake.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n")
            answer = receive_until(sock, b"}\n")

            assert status(answer) == 200


def test_too_many_clients(fake: FakeDoor) -> None:
    clients = [fake.connect() for _ in range(control.CLIENTS)]
    until(lambda: fake.clients == control.CLIENTS)
    with fake.connect() as sock:
        answer = receive(sock)
    for client in clients:
        client.close()
    until(lambda: fake.clients == 0)

    assert status(answer) == 503
    assert call(fake, "GET", "/status")[0] == 200


@pytest.mark.parametrize("start", [b"", b"GET /sta", b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"])
def test_an_idle_connection_is_closed(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(door, "IDLE_TIMEOUT", 0.05)

    assert ask(fake, start) == b""


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.05)
    with fake.connect() as sock:
        sock.sendall(b"GET /logs?follow=1 HTTP/1.1\r\n" + HOST + b"\r\n")
        until(lambda: fake.do(lambda: len(fake.supervisor.journal._subscriptions)) == 1)

        def flood() -> None:
            for _ in range(5_000):
                fake.supervisor.prints("web", "x" * 500)

        fake.do(flood)
        fake.close()
        assert fake.clients == 0


def test_nothing_is_left_of_many_clients(fake: FakeDoor) -> None:
    """Some ask, some leave in the middle; the audit counts descriptors afterwards."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        with fake.connect() as sock, contextlib.suppress(BrokenPipeError):  # of one too many
            sock.sendall([b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /", b"", b"junk\r\n\r\n"][number % 4])

    until(lambda: len(os.listdir("/proc/self/fd")) == before, what="all descriptors to be closed")


def test_who_comes_too_late_is_told_why() -> None:
    """A connection that was accepted as the door closed is not one too many: commands know what "stopping" means."""

    async def main() -> None:
        opened = control.Door(cast(Any, None), ControlSpec())
        await opened.close("stopping", "the supervisor is stopping")
        assert opened.opened(cast(Any, object())) == ("stopping", "the supervisor is stopping")

    asyncio.run(main())
