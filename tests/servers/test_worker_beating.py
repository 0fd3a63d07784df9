"""Every server: it beats, counts, says when it has served enough, and writes its stacks when it is asked for them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import BACKENDS, Case, Connection, WorkerProcess
from trapeze.prelude import DUMP_SIGNAL
from trapeze.scoreboard import Scoreboard

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

every_server = pytest.mark.parametrize("case", BACKENDS, ids=str)


@pytest.fixture
def table() -> Iterator[Scoreboard]:
    made = Scoreboard()
    yield made
    made.close()


def start(
    worker: Spawn, case: Case, listeners: list[Listener], table: Scoreboard, *, full: bool = False, **fields: Any
) -> tuple[WorkerProcess, int]:
    slot = table.allocate(7)
    assert slot is not None
    process = worker(
        listeners,
        app=f"workerapp:{case.interface}",
        backend=case.backend,
        options=case.options,
        board={"fd": table.fd, "slot": slot, "full": full},
        heartbeat_timeout=2.0,
        dump_signal=int(DUMP_SIGNAL),
        **fields,
    )
    process.ready()
    return process, slot


@every_server
def test_beats_while_idle(case: Case, worker: Spawn, tcp: Make, table: Scoreboard) -> None:
    """More than once, and never half the heartbeat's timeout apart."""
    process, slot = start(worker, case, [tcp()], table)
    first = until(lambda: table.read(slot).beat, what="a beat")

    until(lambda: table.read(slot).beat > first + 2.0, what="more of them")

    assert table.read(slot).gap < 1.5
    process.stop()
    assert process.wait() == 0


@every_server
def test_is_silent_while_it_is_stopped(case: Case, worker: Spawn, tcp: Make, table: Scoreboard) -> None:
    """And then writes its stacks, when it is woken, and lives."""
    process, slot = start(worker, case, [tcp()], table)
    until(lambda: table.read(slot).beat, what="a beat")
    process.process.send_signal(signal.SIGSTOP)
    until(lambda: "State:\tT" in Path(f"/proc/{process.process.pid}/status").read_text(), what="it to be stopped")
    last = table.read(slot).beat

    process.process.send_signal(DUMP_SIGNAL)
    process.process.send_signal(signal.SIGCONT)

    until(lambda: "most recent call first" in process.output, what="the stacks")
    assert '  File "' in process.output
    until(lambda: table.read(slot).beat > last, what="another beat")
    process.stop()
    assert process.wait() == 0


@every_server
def test_limit_of_requests(case: Case, worker: Spawn, connect: Connect, tcp: Make, table: Scoreboard) -> None:
    """It says so once, and serves on until it is asked to leave."""
    listener = tcp()
    process, _ = start(worker, case, [listener], table, max_requests=3)
    for _ in range(4):
        assert connect(listener).get("/", Connection="close")[0] == 200

    (said,) = process.message().values()
    assert said in ("has served 3 requests", "has served 4 requests")
    assert connect(listener).get("/", Connection="close")[0] == 200
    process.stop()
    assert process.wait() == 0


@every_server
def test_counts_in_full(case: Case, worker: Spawn, connect: Connect, tcp: Make, table: Scoreboard) -> None:
    """The request in flight is there at once, with the time of its beginning; the rest comes with a beat."""
    listener = tcp()
    process, slot = start(worker, case, [listener], table, full=True)
    asked = connect(listener)
    asked.send("/gate", Connection="close")
    process.entered()
    assert table.read(slot).oldest > 0

    process.let_go()

    assert asked.answer()[0] == 200
    until(lambda: table.read(slot).classes == (1, 0, 0, 0), what="the count")
    seen = table.read(slot)
    assert (seen.oldest, seen.requests, sum(seen.times), seen.full) == (0, 1, 1, True)
    process.stop()
    assert process.wait() == 0
