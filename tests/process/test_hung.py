"""Workers that hang, in the real thing: found, their stacks kept, replaced. What is in their way to that is announced.

The replacement comes first: it is ready before the one that hangs is gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import Listener, Trapeze
from tests.support.site import Site
from tests.support.wait import until

APP = """
import asyncio, os, threading

def spin_here():
    while True:
        pass

def deadlock_here():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/deadlock":
        deadlock_here()
    if path == "/gate":
        os.write(os.open(os.environ["TEST_WIRE"], os.O_WRONLY), b"in\\n")
        open(os.environ["TEST_GATE"]).readline()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/spin":
        spin_here()
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


class Asked:
    """A request whose answer may never come."""

    def __init__(self, listener: Listener, path: str) -> None:
        host, _, port = listener.address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def answer(self) -> bytes:
        """Everything until the other side closes."""
        data = b""
        try:
            while piece := self.sock.recv(4096):
                data += piece
        except ConnectionResetError:
            pass
        return data


@pytest.fixture
def ask() -> Iterator[Any]:
    """Send a request, do not wait for the answer."""
    made: list[Asked] = []

    def make(listener: Listener, path: str) -> Asked:
        made.append(Asked(listener, path))
        return made[-1]

    yield make
    for asked in made:
        asked.sock.close()


def up(site: Site, app: str, fields: str, **options: Any) -> Trapeze:
    listener = site.tcp()
    site.write("shop.py", APP)
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "shop:{app}"
        {fields}
        """,
        listeners=[listener],
        **options,
    )
    server.ready()
    server.expect_error("Current thread|Thread 0x")
    return server


def events(server: Trapeze) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.ctl("events", "--json").out.splitlines()]


def end_of(server: Trapeze, pid: int) -> dict[str, Any]:
    """Wait for the end of a process; its transition."""

    def look() -> dict[str, Any] | None:
        found = [event for event in events(server) if event.get("pid") == pid and event["to"] == "EXITED"]
        return found[0] if found else None

    found = until(look, timeout=20, what=f"the end of {pid}")
    assert found is not None
    return found


def check_replaced_first(server: Trapeze, old: dict[str, Any]) -> None:
    """Another worker was ready before the old one was gone."""
    ready = [
        event["revision"]
        for event in events(server)
        if event["service"] == "web" and event["to"] == "READY" and event["process"] > old["process"]
    ]
    assert ready
    assert min(ready) < old["revision"], (ready, old)


def check_logged_once(server: Trapeze, line: str) -> None:
    assert sum(line in logged for logged in server.output.splitlines()) == 1, server.output


HEARTBEAT = "heartbeat_timeout = 2.0"
SILENT = "no heartbeat for 2 s, killed by SIGKILL"


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_stopped_by_a_signal(site: Site, app: str) -> None:
    """SIGSTOP: it is woken so that it can say where it was."""
    server = up(site, app, HEARTBEAT)
    (pid,) = server.pids()

    os.kill(pid, signal.SIGSTOP)

    end = end_of(server, pid)
    assert end["why"] == SILENT
    assert any("most recent call first" in line for line in end["output"])
    check_replaced_first(server, end)
    check_logged_once(server, "most recent call first")
    assert server.get("/").text == str(server.ready().pids()[0])
    assert server.service()["restarts"] == 1
    assert server.stop() == 0


def test_endless_loop_in_an_async_view(site: Site, ask: Any) -> None:
    server = up(site, "asgi", HEARTBEAT)
    (pid,) = server.pids()

    ask(server.listeners[0], "/spin")

    end = end_of(server, pid)
    assert end["why"] == SILENT
    assert any("in spin_here" in line for line in end["output"])
    check_replaced_first(server, end)
    check_logged_once(server, "in spin_here")
    assert server.get("/").text == str(server.ready().pids()[0])
    assert server.stop() == 0


def test_deadlock_of_the_main_thread(site: Site, ask: Any) -> None:
    """A sync worker; without preload the replacement has an import to do, and comes first all the same."""
    fields = 'backend = "gunicorn"\noptions = { worker_class = "sync" }\npreload = false'
    server = up(site, "wsgi", f"{HEARTBEAT}\n{fields}")
    (pid,) = server.pids()
    until(lambda: server.service()["standby"], what="the spare")

    ask(server.listeners[0], "/deadlock")

    end = end_of(server, pid)
    assert end["why"] == SILENT
    assert any("in deadlock_here" in line for line in end["output"])
    check_replaced_first(server, end)
    assert server.get("/").text == str(server.ready().pids()[0])
    assert server.stop() == 0


def test_a_slow_request_in_a_thread_is_no_silence(site: Site, ask: Any) -> None:
    """The control: gthread's main loop goes round while a request takes longer than the heartbeat's timeout."""
    wire, gate = site.wire(), site.gate()
    server = up(site, "wsgi", f'{HEARTBEAT}\nenv = {{ TEST_WIRE = "{wire}", TEST_GATE = "{gate}" }}')
    (pid,) = server.pids()
    asked = ask(server.listeners[0], "/gate")
    assert wire.line() == "in"
    revision = server.status()["revision"]
    server.request("GET", f"/events?since={revision}&wait=3")
    assert server.pids() == [pid]

    gate.open()

    assert asked.answer().endswith(str(pid).encode())
    assert server.stop() == 0


def test_one_request_too_long_alone(site: Site, ask: Any) -> None:
    """Nobody else is in that worker: it is killed, with its stacks."""
    server = up(site, "wsgi", "request_timeout = 1.0\nworkers = 2")
    ask(server.listeners[0], "/deadlock")

    server.wait_output(r"KILLING: a request has taken longer than 1 s")
    killed = next(event for event in events(server) if event["to"] == "KILLING")
    end = end_of(server, killed["pid"])

    assert end["why"] == "a request has taken longer than 1 s, killed by SIGKILL"
    assert any("in deadlock_here" in line for line in end["output"])
    check_replaced_first(server, end)
    check_logged_once(server, "in deadlock_here")
    assert server.ready().get("/").status_code == 200
    assert server.stop() == 0


def test_one_request_too_long_in_company(site: Site, ask: Any) -> None:
    """Another request in the same worker began later and gets its answer: the worker is drained, not shot."""
    wire, gate = site.wire(), site.gate()
    env = f'env = {{ TEST_WIRE = "{wire}", TEST_GATE = "{gate}" }}'
    server = up(site, "wsgi", f"request_timeout = 2.0\nstop_timeout = 3.0\n{env}")
    (pid,) = server.pids()
    ask(server.listeners[0], "/deadlock")
    company = ask(server.listeners[0], "/gate")
    assert wire.line() == "in"

    server.wait_output(rf"pid {pid} (READY|STOPPING): .*a request has taken longer than 2 s")
    until(lambda: pid != server.service()["processes"][-1]["pid"], what="a replacement")
    gate.open()

    assert company.answer().endswith(str(pid).encode())
    end = end_of(server, pid)
    seen = events(server)
    stacks = [event for event in seen if event.get("pid") == pid and event["output"]]
    assert len(stacks) == 1
    assert any("in deadlock_here" in line for line in stacks[0]["output"])
    check_logged_once(server, "in deadlock_here")
    check_replaced_first(server, end)
    assert not any(event["to"] == "KILLING" and "request" in event["why"] for event in seen)
    assert server.stop() == 0
