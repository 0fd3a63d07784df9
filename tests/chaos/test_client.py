"""The load client itself: against a server that does wrong on purpose it names each by its name and phase."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.load import Client, Plan
from tests.chaos.records import (
    DOUBLED,
    OK,
    REFUSED,
    RESET,
    TIMED_OUT,
    UNFINISHED,
    WRONG_BODY,
    WRONG_STATUS,
    Flow,
    Record,
)
from tests.chaos.toy import Behaviour, answer, read, reset, toy
from tests.chaos.world import Load
from tests.support.wait import until_async

TIMEOUT = 0.5
"""Seconds after which the client gives a request up, here."""


def records(flow: Flow, count: int = 1, *, wait: bool = False) -> list[Record]:
    """So many requests, one after the other; `wait` after the first until something has happened to what is idle."""

    async def send() -> str:
        out = io.StringIO()
        client = Client(Plan(7, TIMEOUT, [flow]), out)
        for number in range(count):
            await client.one(flow, asyncio.get_running_loop().time())
            if wait and number == 0:
                await until_async(lambda: any(line.idle() for line in client.pools[flow].idle))
        await client.close()
        return out.getvalue()

    return [Record.read(line) for line in asyncio.run(send()).splitlines()]


def flow(address: str, **more: Any) -> Flow:
    return Flow("toy", "kind", (address,), 100.0, **more)


def says(make: Callable[..., bytes], **more: Any) -> Behaviour:
    """Answer one request with these bytes."""

    def behave(sock: socket.socket, over: threading.Event) -> None:
        asked = read(sock)
        assert asked
        sock.sendall(make(asked, **more))

    return behave


def _silent(sock: socket.socket, over: threading.Event) -> None:
    read(sock)
    over.wait(10)


def _closes(sock: socket.socket, over: threading.Event) -> None:
    read(sock)


def _resets(sock: socket.socket, over: threading.Event) -> None:
    read(sock)
    reset(sock)


def _resets_unread(sock: socket.socket, over: threading.Event) -> None:
    sock.recv(1)
    reset(sock)


def _resets_within(sock: socket.socket, over: threading.Event) -> None:
    asked = read(sock)
    assert asked
    sock.sendall(answer(asked)[:-1])
    over.wait(0.1)
    reset(sock)


def _late_twice(sock: socket.socket, over: threading.Event) -> None:
    asked = read(sock)
    assert asked
    sock.sendall(answer(asked))
    over.wait(0.1)
    sock.sendall(answer(asked))


def _keeps(sock: socket.socket, over: threading.Event) -> None:
    while asked := read(sock):
        sock.sendall(answer(asked))


WRONGS: dict[str, tuple[Behaviour, str, str]] = {
    "closed before": (_closes, UNFINISHED, "wait"),
    "closed within the head": (says(lambda asked: answer(asked)[:20]), UNFINISHED, "answer"),
    "closed within the body": (says(lambda asked: answer(asked)[:-1]), UNFINISHED, "answer"),
    "reset before": (_resets, RESET, "wait"),
    "reset before it was read": (_resets_unread, RESET, "wait"),
    "reset within": (_resets_within, RESET, "answer"),
    "no answer": (_silent, TIMED_OUT, "wait"),
    "bad gateway": (says(answer, status="502 Bad Gateway"), WRONG_STATUS, "answer"),
    "answer of another": (says(answer, ident="somebody"), WRONG_BODY, "answer"),
    "mixed up": (says(lambda asked: answer(asked)[:-4] + b"xxxx"), WRONG_BODY, "answer"),
    "body not received": (says(lambda asked: answer(asked._replace(body=b"half"))), WRONG_BODY, "answer"),
    "twice at once": (says(lambda asked: answer(asked) * 2), DOUBLED, "answer"),
    "twice": (_late_twice, DOUBLED, "after"),
}


@pytest.mark.parametrize("what", WRONGS)
def test_a_wrong_has_a_name(what: str) -> None:
    behaviour, outcome, phase = WRONGS[what]

    with toy(behaviour) as address:
        (record,) = records(flow(address, size=100))

    assert (record.outcome, record.phase) == (outcome, phase), record


def test_ok() -> None:
    with toy(says(answer, pid=4711)) as address:
        (record,) = records(flow(address, method="POST", size=100_000, pieces=3, pause=0.01))

    assert (record.outcome, record.pid, record.generation, record.code) == (OK, 4711, "1", "1")
    assert record.done - record.sent >= 0.02, "written in three pieces"


def test_refused(run_dir: Path) -> None:
    """Nobody listens on the port, there is no such path, the queue of the path is full."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        tcp = f"127.0.0.1:{free.getsockname()[1]}"
    assert records(flow(tcp))[0][6:8] == (REFUSED, "connect")
    assert records(flow(f"unix:{run_dir}/none"))[0].detail.startswith("ENOENT")

    path = f"{run_dir}/full"
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(path)
        full.listen(0)
        first.connect(path)
        assert records(flow(f"unix:{path}"))[0].detail.startswith("EAGAIN")
    Path(path).unlink()


def test_one_address_of_several_is_enough() -> None:
    with toy(says(answer)) as address, socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        (record,) = records(flow(address)._replace(addresses=(nobody, address)))

    assert record.outcome == OK


def test_kept_connections_are_used_in_turn() -> None:
    with toy(_keeps) as address:
        found = records(flow(address, keep=2), count=6)

    assert Counter((each.outcome, each.reused) for each in found) == {(OK, False): 2, (OK, True): 4}


def test_closed_while_idle_is_no_loss() -> None:
    with toy(says(answer), _keeps) as address:
        found = records(flow(address, keep=1), count=3, wait=True)

    assert [(each.outcome, each.reused) for each in found] == [(OK, False), (OK, False), (OK, True)]


def test_reset_while_idle_is_a_loss() -> None:
    def behave(sock: socket.socket, over: threading.Event) -> None:
        asked = read(sock)
        assert asked
        sock.sendall(answer(asked))
        over.wait(0.1)  # a reset would take the answer with it that was not read yet
        reset(sock)

    with toy(behave, _keeps) as address:
        found = records(flow(address, keep=1), count=2, wait=True)

    assert [each[6:8] for each in found] == [(OK, "after"), (RESET, "idle"), (OK, "after")]


@pytest.mark.parametrize(("how", "outcome"), [("closed", UNFINISHED), ("reset", RESET)])
def test_closed_against_a_request_on_a_kept_connection_is_a_loss(how: str, outcome: str) -> None:
    """The server closes while the request is on its way: what drain_grace is there to prevent."""

    def behave(sock: socket.socket, over: threading.Event) -> None:
        asked = read(sock)
        assert asked
        sock.sendall(answer(asked))
        sock.recv(1, socket.MSG_PEEK)  # it is there, and is not looked at
        if how == "closed":
            sock.recv(65536)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with toy(behave) as address:
        found = records(flow(address, keep=1), count=2)

    assert [(each.outcome, each.reused) for each in found] == [(OK, False), (outcome, True)]


def test_second_answer_on_a_kept_connection() -> None:
    """It is found when the connection is to be used again."""
    with toy(_late_twice, _keeps) as address:
        found = records(flow(address, keep=1), count=2, wait=True)

    assert [each[6:8] for each in found] == [(OK, "after"), (DOUBLED, "idle"), (OK, "after")]


def test_open_loop(run_dir: Path) -> None:
    """A server that answers nothing gets as many requests as one that does; late is measured from when it was due."""
    with toy(_silent) as address:
        load = Load(run_dir, [flow(address)._replace(rate=200.0)], seed=1, timeout=TIMEOUT)
        try:
            threading.Event().wait(1.0)  # the time in which about 200 are due
            found = load.quit()
        finally:
            load.close()

    assert load.errors() == ""
    assert len(found) > 60
    assert {each.outcome for each in found} == {TIMED_OUT}
    assert all(each.done - each.due >= TIMEOUT * 0.99 for each in found)


def test_burst(run_dir: Path) -> None:
    """All of a burst are sent when the order is answered."""
    came = threading.Semaphore(0)

    def behave(sock: socket.socket, over: threading.Event) -> None:
        asked = read(sock)
        assert asked
        came.release()
        over.wait(0.2)
        sock.sendall(answer(asked))

    with toy(behave) as address:
        load = Load(run_dir, [], seed=1)
        try:
            load.order(do="pause")
            load.order(do="burst", flow=flow(address), count=20)
            assert all(came.acquire(timeout=5) for _ in range(20))
            found = load.quit()
        finally:
            load.close()

    assert [each.outcome for each in found] == [OK] * 20
