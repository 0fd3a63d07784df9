"""A worker accepts when it has time: what it cannot serve at once is left to its siblings."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import Connection, WorkerProcess

KEEPING = ["gunicorn", "waitress", "cheroot", "hypercorn", "tornado"]
pools = pytest.mark.parametrize("backend", [*KEEPING, "werkzeug"])
keeping = pytest.mark.parametrize("backend", KEEPING)

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]


def someone_waits(listener: Listener) -> bool:
    """Is a connection in the queue that nobody has accepted?"""
    return bool(select.select([listener.sock], [], [], 0)[0])


@pools
def test_what_no_thread_can_serve_stays_in_the_queue(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend=backend, threads=2)
    process.ready()
    inside = [connect(listener), connect(listener)]
    for client in inside:
        client.send("/gate")
        process.entered()
    late = connect(listener)
    late.send("/")
    until(lambda: someone_waits(listener), what="the third connection in the queue")
    sibling = worker([listener], backend=backend, threads=2)
    sibling.ready()
    assert late.answer()[0] == 200
    for _ in inside:
        process.let_go()
    for client in inside:
        assert client.answer()[0] == 200


@pools
def test_a_free_thread_takes_the_next(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend=backend, threads=1)
    process.ready()
    first, second = connect(listener), connect(listener)
    first.send("/gate")
    process.entered()
    second.send("/")
    process.let_go()
    assert first.answer()[0] == 200
    assert second.answer()[0] == 200


@keeping
def test_new_ones_get_in_beside_kept_ones_that_never_rest(
    backend: str, worker: Spawn, connect: Connect, tcp: Make
) -> None:
    """Six kept connections ask again and again of a single thread: there is always one that waits for it."""
    listener = tcp()
    process = worker([listener], backend=backend, threads=1)
    process.ready()
    over = threading.Event()
    begun = threading.Barrier(7)

    def ask_on_and_on(client: Connection) -> None:
        client.get("/")
        begun.wait()
        while not over.is_set():
            client.get("/")

    threads = [threading.Thread(target=ask_on_and_on, args=[connect(listener)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        begun.wait()
        for _ in range(3):
            late = connect(listener)
            assert late.get("/", Connection="close")[0] == 200
    finally:
        over.set()
        for thread in threads:
            thread.join()
    process.stop()
    assert process.wait() == 0


@pools
def test_clients_that_do_not_close_hold_up_nobody(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """gunicorn's own waits two seconds for each of them, and meanwhile for nobody else."""
    listener = tcp()
    process = worker([listener], backend=backend, threads=12)
    process.ready()
    lazy = [connect(listener) for _ in range(12)]
    for client in lazy:
        client.send("/", Connection="close")
    for client in lazy:
        assert client.answer()[0] == 200
        assert client.is_closed(), "its half"
    assert connect(listener).get("/")[0] == 200
    process.stop()
    for client in lazy:
        client.close()
    assert process.wait() == 0


@pytest.mark.parametrize("backend", ["waitress", "cheroot", "werkzeug"])
def test_silent_clients_cost_no_thread(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """A browser connects before it has anything to ask."""
    listener = tcp()
    process = worker([listener], backend=backend, threads=1)
    process.ready()
    silent = [connect(listener) for _ in range(5)]
    for _ in range(3):
        assert connect(listener).get("/", Connection="close")[0] == 200
    assert silent[0].get("/", Connection="close")[0] == 200
    process.stop()
    assert process.wait() == 0, process.output
