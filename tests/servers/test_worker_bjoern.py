"""bjoern: its processes, and the signals that its loop would keep for itself."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import Connection, WorkerProcess, check, gone

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

both_names = pytest.mark.parametrize(
    ("backend", "options"), [("bjoern", {}), ("chaussette", {"backend": "bjoern"})], ids=["bjoern", "chaussette"]
)


@both_names
def test_two_sockets_leave_no_process(
    backend: str, options: dict[str, Any], worker: Spawn, connect: Connect, tcp: Make, unix: Make
) -> None:
    both = [tcp(), unix()]
    process = worker(both, backend=backend, options=options)
    process.ready()
    pid = process.process.pid
    helpers = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    assert len(helpers) == 2
    for listener in both:
        assert connect(listener).get()[0] == 200
    process.stop()
    assert process.wait() == 0
    for helper in helpers:
        gone(helper)


@pytest.mark.parametrize("sockets", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT], ids=["INT", "QUIT"])
def test_fast_stop_as_soon_as_it_is_ready(signum: int, sockets: int, worker: Spawn, tcp: Make) -> None:
    process = worker([tcp() for _ in range(sockets)], backend="bjoern")
    process.ready()
    process.process.send_signal(signum)
    assert process.wait() == 0, process.output
    assert process.output == ""


def test_drains_on_sigint_where_that_is_the_stop_signal(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="bjoern", stop_signal=int(signal.SIGINT))
    process.ready()
    client = connect(listener)
    client.send("/gate", Connection="close")
    process.entered()
    process.stop(signal.SIGINT)
    process.let_go()
    assert client.answer()[0] == 200
    assert process.wait() == 0, process.output


def test_it_has_no_options() -> None:
    found = check(backend="bjoern", interface="wsgi", options={"statsd": {}}, keepalive=1.0, threads=2)["problems"]
    assert [(each["field"], each["reason"], each["hint"]) for each in found] == [
        ("options.statsd", "bjoern has no such setting", "it has none"),
        ("threads", "bjoern has no threads", "leave it out"),
        ("keepalive", "bjoern has no such setting", "leave it out"),
    ]
