"""Apps of tornado: how they are told, their own notions of what the fields say, and what is scheduled at import."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import Connection, WorkerProcess
from tests.support.zygotekit import Zygote

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

APP = """
import tornado.web

ran = []

class Home(tornado.web.RequestHandler):
    def get(self):
        ran.append(self.request.uri)
        self.write({"path": self.request.path, "home": self.reverse_url("home"), "url": self.request.full_url(),
                    "remote": self.request.remote_ip, "ran": ran})

class Raises(tornado.web.RequestHandler):
    def get(self):
        raise LookupError("no such shelf")

class Gone(tornado.web.RequestHandler):
    def get(self):
        raise tornado.web.HTTPError(410)

class Shop(tornado.web.Application):
    def __init__(self, **settings):
        super().__init__([tornado.web.url("/", Home, name="home"), ("/raises", Raises), ("/gone", Gone)], **settings)

def make():
    return Shop()

async def later():
    return Shop()

app = Shop()
"""


@pytest.fixture
def start(worker: Spawn, tcp: Make, run_dir: Path) -> Callable[..., tuple[WorkerProcess, Listener]]:
    """A worker with the app above."""

    def made(app: str = "app", more: str = "", **fields: Any) -> tuple[WorkerProcess, Listener]:
        (run_dir / "shop.py").write_text(APP + more)
        listener = tcp()
        return worker([listener], app=f"shop:{app}", **{"backend": "tornado", **fields}), listener

    return made


@pytest.mark.parametrize(
    ("app", "fields"),
    [("app", {}), ("make()", {}), ("make", {"factory": True}), ("later()", {}), ("app", {"interface": "tornado"})],
)
def test_auto_serves_it_however_it_is_named(app: str, fields: dict[str, Any], start: Make) -> None:
    process, listener = start(app, backend="auto", **fields)
    said = process.ready()
    assert (said["interface"], said["backend"]) == ("tornado", "tornado")
    assert listener.get("/").json()["path"] == "/"


def test_a_router_is_an_app_too(start: Make) -> None:
    more = """
from tornado.routing import RuleRouter, Rule, PathMatches
router = RuleRouter([Rule(PathMatches("/.*"), app)])
"""
    process, listener = start("router", more, backend="auto", access_log=True)
    process.ready()
    assert listener.get("/").json()["path"] == "/"


@pytest.mark.parametrize("path", ["/shop/?a=b", "/?a=b", "/shop?a=b"])
def test_urls_that_it_makes_have_the_prefix(path: str, start: Make) -> None:
    """Routes are found without it."""
    process, listener = start(root_path="/shop")
    process.ready()
    facts = listener.get(path).json()
    assert (facts["path"], facts["home"]) == ("/", "/shop/")
    assert facts["url"].endswith(("/shop/?a=b", "/shop?a=b"))
    assert listener.get("/shop/nothing").status_code == 404


def test_an_error_is_a_500_and_a_traceback(start: Make) -> None:
    """And the access log is ours alone: tornado's says so of each answer from 400 on."""
    process, listener = start(access_log=True)
    process.ready()
    assert listener.get("/raises").status_code == 500
    assert listener.get("/gone").status_code == 410
    assert listener.get("/nothing").status_code == 404
    until(lambda: '"GET /nothing HTTP/1.1" 404' in process.output, what="the log")
    assert "LookupError: no such shelf" in process.output
    assert '"GET /raises HTTP/1.1" 500' in process.output and '"GET /gone HTTP/1.1" 410' in process.output
    assert len([line for line in process.output.splitlines() if "/nothing" in line]) == 1


def test_several_proxies_and_lines(start: Make, connect: Connect) -> None:
    """What one request was told is forgotten at the next."""
    process, listener = start(trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    process.ready()
    client = connect(listener)
    client.sock.sendall(
        b"GET / HTTP/1.1\r\nHost: inside\r\nX-Forwarded-For: 192.0.2.66, 203.0.113.9\r\n"
        b"X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: http, https\r\nX-Forwarded-Host: shop.example\r\n\r\n"
    )
    facts = json.loads(client.answer()[2])
    assert (facts["remote"], facts["url"]) == ("203.0.113.9", "https://shop.example/")
    facts = json.loads(client.get("/")[2])
    assert (facts["remote"], facts["url"]) == ("127.0.0.1", "http://example.com/")


def test_a_request_behind_the_last_answer_is_not_run(start: Make, connect: Connect) -> None:
    """Its client sends it again. Stock tornado runs it, and throws the answer away."""
    process, listener = start()
    process.ready()
    client = connect(listener)
    head = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    client.sock.sendall(b"GET /?first" + head + b"GET /?second" + head)
    assert json.loads(client.answer()[2])["ran"] == ["/?first"]
    assert client.is_closed()
    assert listener.get("/?third").json()["ran"] == ["/?first", "/?third"]


TICKING = """
from tornado.ioloop import IOLoop, PeriodicCallback
IOLoop.current().add_callback(print, "called back", flush=True)
PeriodicCallback(lambda: print("tick", flush=True), 50).start()
"""


def test_what_is_scheduled_at_import_runs(start: Make) -> None:
    process, _ = start(more=TICKING)
    process.ready()
    until(lambda: process.output.count("tick") >= 2, what="two ticks")
    assert "called back" in process.output
    process.stop()
    assert process.wait() == 0, process.output


def test_a_loop_from_before_the_fork_is_not_shared(
    zygote: Callable[..., Zygote], connect: Connect, tcp: Make, run_dir: Path
) -> None:
    (run_dir / "shop.py").write_text(APP + TICKING)
    process = zygote([tcp()], app="shop:app", backend="tornado")
    assert process.ready()["unsafe"] == ""
    workers = [process.fork(index) for index in range(2)]
    for worker in workers:
        worker.ready()
    for _ in range(20):
        assert connect(process.serves[0]).get("/", Connection="close")[0] == 200
    for worker in workers:
        worker.stop()
        assert worker.wait() == 0, worker.output
    assert "event loop" in process.output


def test_autoreload_is_left_to_the_supervisor(start: Make, run_dir: Path) -> None:
    """tornado would execute the worker anew in its place."""
    process, listener = start("debugged", "debugged = Shop(debug=True)\n")
    process.ready()
    (run_dir / "shop.py").write_text(APP + "debugged = Shop(debug=True)\n# changed\n")
    end = time.monotonic() + 1.2  # it looks twice a second
    until(lambda: time.monotonic() >= end)
    assert listener.get("/").status_code == 200
    assert "tornado's autoreload does nothing in a worker" in process.output
    process.stop()
    assert process.wait() == 0
