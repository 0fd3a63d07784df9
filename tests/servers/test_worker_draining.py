"""Nothing is lost when one of several workers on a socket leaves, whatever the connections are doing.

The control of all of it: workers that leave at once (SIGQUIT) under the same load do lose requests, and it is seen.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.drainload import APP, Load
from tests.support.server import Listener
from tests.support.workerkit import BACKENDS, Case, WorkerProcess, lacks

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]

WORKERS = 2
REPLACEMENTS = 6
GRACE = 0.6
"""Seconds that idle connections stay; twice what the clients think at most."""
REQUESTS = 3000
TIME = 6.0
"""Seconds after which a load that is too slow on this machine has been enough."""

MORE = [
    Case("uvicorn-uvloop-h11", "uvicorn", {"http": "h11"}, interface="asgi"),
    Case("uvicorn-asyncio-httptools", "uvicorn", {"loop": "asyncio"}, interface="asgi"),
]
every_server = pytest.mark.parametrize("case", [*BACKENDS, *MORE], ids=str)


async def replaced_under_load(case: Case, listeners: list[Listener], worker: Spawn, signum: int, requests: int) -> Load:
    """Replace workers one after the other while clients are at it."""
    load = Load(listeners, keepalive=case.keepalive, think=GRACE / 2)
    load.whole = bool(lacks(case, "half_request") or lacks(case, "pipelining"))
    if lacks(case, "half_request"):  # on a Unix socket, it cannot be told from none
        load.slowly = [listener for listener in listeners if not listener.path]
    loop = asyncio.get_running_loop()

    async def start() -> WorkerProcess:
        fields = {"app": f"drainapp:{case.interface}", "backend": case.backend, "options": case.options}
        process = worker(listeners, drain_grace=GRACE, stop_timeout=10.0, workers=WORKERS, **fields)
        await loop.run_in_executor(None, process.ready)
        return process

    async def roll() -> None:
        end = time.monotonic() + TIME
        working = [await start() for _ in range(WORKERS)]
        leaving: list[WorkerProcess] = []
        while len(leaving) < REPLACEMENTS or (load.answered.total() < requests and time.monotonic() < end):
            working.append(await start())
            leaving.append(working.pop(0))
            leaving[-1].process.send_signal(signum)
        for process in leaving:
            assert await loop.run_in_executor(None, process.wait) == 0, process.output
            assert "Traceback" not in process.output, process.output
        load.over = True

    await load.run(roll)
    return load


@pytest.fixture
def both(run_dir: Path, tcp: Make, unix: Make) -> list[Listener]:
    (run_dir / "drainapp.py").write_text(APP)
    return [tcp(), unix()]


@every_server
def test_workers_are_replaced_under_load(case: Case, both: list[Listener], worker: Spawn) -> None:
    load = asyncio.run(replaced_under_load(case, both, worker, signal.SIGTERM, REQUESTS))
    assert load.lost == {}, load.answered
    assert set(load.answered) == {"fresh", "late", "kept", "thinking", "post", "slow", "pipelined", "download"}


@every_server
def test_control_workers_that_leave_at_once_lose_requests(case: Case, both: list[Listener], worker: Spawn) -> None:
    load = asyncio.run(replaced_under_load(case, both, worker, signal.SIGQUIT, 0))
    assert load.lost.total() > 0
