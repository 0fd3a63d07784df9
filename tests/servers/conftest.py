"""Workers that are stopped after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import Connection, WorkerProcess
from tests.support.zygotekit import Zygote


@pytest.fixture
def worker(run_dir: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Spawn a worker as the supervisor does: `worker([tcp()], backend="uvicorn", app="workerapp:asgi")`."""
    made: list[WorkerProcess] = []

    def make(listeners: list[Listener] | None = None, **fields: Any) -> WorkerProcess:
        made.append(WorkerProcess(fields.pop("directory", run_dir), listeners or [], **fields))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
def zygote(run_dir: Path) -> Iterator[Callable[..., Zygote]]:
    """Spawn a zygote as the supervisor does: `zygote([tcp()], app="workerapp:asgi")`, then `.ready()`, `.fork()`."""
    made: list[Zygote] = []

    def make(listeners: list[Listener] | None = None, **fields: Any) -> Zygote:
        made.append(Zygote(fields.pop("directory", run_dir), listeners or [], **fields))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Listener], Connection]]:
    """Open client connections that are closed after the test."""
    made: list[Connection] = []

    def make(listener: Listener) -> Connection:
        made.append(Connection(listener))
        return made[-1]

    yield make
    for connection in made:
        connection.close()
