"""Recycling with real workers under load: one at a time, the new one first, no request lost.

The control is the server's own limit of requests: it leaves first and is replaced then, and capacity has gaps.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.server import Trapeze
from tests.support.site import Site
from tests.support.wait import until

APP = """
import os

LEAK = []

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        LEAK.append(bytearray(os.urandom(1)) * 40_000_000)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

WORKERS = 2


class Load:
    """Clients that ask one request after the other, half on fresh connections, half on kept-alive ones."""

    def __init__(self, server: Trapeze) -> None:
        self.pids: set[str] = set()
        self.answers = 0
        self.lost: list[str] = []
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(server, kept)) for kept in (True, False)]
        for thread in self._threads:
            thread.start()

    def _run(self, server: Trapeze, kept: bool) -> None:
        headers = {} if kept else {"connection": "close"}
        with server.listeners[0].client() as client:
            while not self._enough.is_set():
                try:
                    answer = client.get("/", headers=headers)
                    assert answer.status_code == 200
                except (httpx.TransportError, AssertionError) as error:
                    self.lost.append(repr(error))
                    continue
                self.pids.add(answer.text)
                self.answers += 1

    def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def load() -> Iterator[Any]:
    made: list[Load] = []

    def make(server: Trapeze) -> Load:
        made.append(Load(server))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def up(site: Site, app: str, fields: str, workers: int = WORKERS) -> Trapeze:
    listener = site.tcp()
    site.write("shop.py", APP)
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "shop:{app}"
        workers = {workers}
        {fields}
        """,
        listeners=[listener],
    )
    return server.ready()


def history(server: Trapeze) -> list[dict[str, Any]]:
    """What happened to the workers."""
    events = [json.loads(line) for line in server.ctl("events", "--json").out.splitlines()]
    return [event for event in events if event["service"] == "web" and event.get("index") is not None]


def fewest_ready(events: list[dict[str, Any]]) -> int:
    """The fewest workers that were ready at any time since all were for the first time."""
    ready: set[int] = set()
    fewest = None
    for event in events:
        (ready.add if event["to"] == "READY" else ready.discard)(event["process"])
        if len(ready) >= WORKERS:
            fewest = WORKERS if fewest is None else fewest
        if fewest is not None:
            fewest = min(fewest, len(ready))
    assert fewest is not None
    return fewest


def most_leaving_for(events: list[dict[str, Any]]) -> int:
    """How many were being recycled at once, from the announcement to the stop, at most."""
    now: set[int] = set()
    most = 0
    for event in events:
        if event["to"] == "READY" and event["why"].startswith("to be replaced"):
            now.add(event["process"])
        elif event["to"] != "READY":
            now.discard(event["process"])
        most = max(most, len(now))
    return most


BACKENDS = [
    ("wsgi", 'backend = "gunicorn"'),
    ("wsgi", 'backend = "gunicorn"\noptions = { worker_class = "sync" }'),
    ("asgi", 'backend = "uvicorn"'),
    ("wsgi", 'backend = "granian"'),
    ("asgi", 'backend = "granian"'),
    ("wsgi", 'backend = "chaussette"\noptions = { backend = "waitress" }'),
]


@pytest.mark.parametrize(
    ("app", "backend"), BACKENDS, ids=["gthread", "sync", "uvicorn", "granian-wsgi", "granian-asgi", "waitress"]
)
def test_max_requests_under_load(site: Site, load: Any, app: str, backend: str) -> None:
    """Several rounds: nothing is lost, all workers are always there, and each says why it left."""
    server = up(site, app, f"max_requests = 200\nmax_requests_jitter = 50\n{backend}")
    clients = load(server)

    until(lambda: len(clients.pids) >= WORKERS + 3, timeout=30, what="some rounds of workers")

    clients.stop()
    assert clients.lost == []
    events = history(server)
    assert fewest_ready(events) == WORKERS
    assert most_leaving_for(events) == 1
    left = [event for event in events if event["to"] == "STOPPING"]
    assert len(left) >= 2
    for event in left:
        assert event["why"].startswith("recycled: has served "), event
        assert int(event["why"].split()[3].replace(",", "")) >= 200
    assert server.ready().service()["restarts"] == 0
    assert server.service()["status"] == "RUNNING"
    assert server.stop() == 0


def test_control_the_servers_own_limit(site: Site, load: Any) -> None:
    """gunicorn's own max_requests leaves first: at times a worker is missing, which the test above would have seen."""
    server = up(site, "wsgi", 'backend = "gunicorn"\noptions = { max_requests = 200, max_requests_jitter = 50 }')
    clients = load(server)

    until(lambda: len(clients.pids) >= WORKERS + 3, timeout=30, what="some rounds of workers")

    clients.stop()
    assert fewest_ready(history(server)) < WORKERS
    server.expect_error("web")
    assert server.stop() == 0


def test_max_age(site: Site, load: Any) -> None:
    server = up(site, "asgi", "max_age = 2\nrecycle_jitter = 0.5")
    first = set(map(str, server.pids()))
    clients = load(server)

    until(lambda: not first & set(map(str, server.pids())), timeout=30, what="others in the place of both")

    clients.stop()
    assert clients.lost == []
    events = history(server)
    assert fewest_ready(events) == WORKERS
    assert most_leaving_for(events) == 1
    assert any(event["why"] in ("recycled: is 1 s old", "recycled: is 2 s old") for event in events)
    assert server.stop() == 0


def test_max_rss(site: Site) -> None:
    """An app that leaks is replaced when it has become too big; the new one first."""
    server = up(site, "wsgi", 'max_rss = "128M"\nrecycle_jitter = 0', workers=1)
    (pid,) = server.pids()
    for _ in range(4):
        assert server.get("/leak").text == str(pid)

    until(lambda: pid not in server.pids(), timeout=30, what="another worker")

    events = history(server)
    stopped = next(event for event in events if event["to"] == "STOPPING")
    assert stopped["pid"] == pid
    assert stopped["why"].startswith("recycled: uses ")
    assert stopped["why"].endswith(" MiB of memory, may use 128")
    ready = [event for event in events if event["to"] == "READY" and event["pid"] != pid]
    assert ready[0]["revision"] < stopped["revision"]
    assert server.ready().get("/").text != str(pid)
    assert server.stop() == 0
