"""What daphne does otherwise: the lifespan's state, Unix sockets, errors, root_path, and a reactor that was forked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import Connection, WorkerProcess
from tests.support.zygotekit import Zygote

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

APP = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["shelf"] = "full"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/raises":
        raise LookupError("no such shelf")
    if path == "/returns":
        return
    if path == "/breaks":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise LookupError("no such shelf")
    body = json.dumps([scope["state"], scope["root_path"], scope["scheme"], scope["server"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def start(worker: Spawn, run_dir: Path) -> Callable[..., WorkerProcess]:
    """A worker with the app above."""
    (run_dir / "daphneapp.py").write_text(APP)

    def made(listener: Listener, **fields: Any) -> WorkerProcess:
        process = worker([listener], app="daphneapp:app", backend="daphne", **fields)
        process.ready()
        return process

    return made


def test_scope_has_what_daphne_leaves_out(start: Make, connect: Connect, unix: Make) -> None:
    """And not what any client says."""
    listener = unix()
    mode = os.stat(listener.path).st_mode
    process = start(listener)
    state, root_path, scheme, server = json.loads(connect(listener).get("/", Daphne_Root_Path="/x")[2])
    assert (state, root_path, scheme) == ({"shelf": "full"}, "", "http")
    assert server == [str(listener.path), None]
    process.stop()
    assert process.wait() == 0
    assert os.stat(listener.path).st_mode == mode, "daphne makes it everybody's"


@pytest.mark.parametrize("path", ["/raises", "/returns"])
def test_an_error_is_answered_at_once(path: str, start: Make, connect: Connect, tcp: Make) -> None:
    """daphne looks for it once a second, and for an app that just returns never."""
    listener = tcp()
    process = start(listener)
    client = connect(listener)
    before = time.monotonic()
    for _ in range(4):
        client = connect(listener)
        client.send(path)
        assert b"500" in client.stream.readline()
    assert time.monotonic() - before < 2.0
    assert ("LookupError: no such shelf" in process.output) == (path == "/raises")
    process.stop()
    assert process.wait() == 0


def test_an_error_in_the_middle_cuts_the_answer(start: Make, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    start(listener)
    client = connect(listener)
    client.send("/breaks")
    answer = client.stream.read()
    assert b"begun" in answer and not answer.endswith(b"0\r\n\r\n")


def test_the_reactor_of_an_app_that_was_forked_is_not_shared(
    zygote: Callable[..., Zygote], connect: Connect, tcp: Make, run_dir: Path
) -> None:
    """As with Django and "daphne" in INSTALLED_APPS, which imports daphne's server."""
    (run_dir / "daphneapp.py").write_text("import daphne.server\n" + APP)
    process = zygote([tcp()], app="daphneapp:app", backend="daphne", preload=True)
    process.ready()
    workers = [process.fork(index) for index in range(2)]
    for worker in workers:
        worker.ready()
    for _ in range(20):
        assert connect(process.serves[0]).get("/", Connection="close")[0] == 200
    for worker in workers:
        worker.stop()
        assert worker.wait() == 0, worker.output
        assert worker.output == ""
