"""`request_timeout` and those who are in the same worker: nobody but the request that takes too long is cut.

The control is in test_hung.py: the request that hangs is ended, with its worker and its stacks.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import Listener, Trapeze
from tests.support.site import Site
from tests.support.wait import until

APP = """
import asyncio, os, threading

never = threading.Lock()
never.acquire()

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/deadlock":
        never.acquire()
    if path == "/slow":
        threading.Event().wait(0.8)
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return pieces()
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def pieces():
    while True:
        yield b"data: %d\\n\\n" % os.getpid()
        threading.Event().wait(0.1)

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["path"] == "/forever":
        await asyncio.Event().wait()
    kind = b"text/event-stream" if scope["path"] == "/events" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    while scope["path"] == "/events":
        await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % os.getpid(), "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

WHY = "a request has taken longer than 1 s"


class Asked:
    """A request."""

    def __init__(self, listener: Listener, path: str, *headers: str) -> None:
        host, _, port = listener.address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=30)
        lines = [f"GET {path} HTTP/1.1", "Host: x", *(headers or ["Connection: close"]), "", ""]
        self.sock.sendall("\r\n".join(lines).encode())

    def read(self, until: bytes) -> bytes:
        """Everything up to some words, the end included."""
        data = b""
        while until not in data:
            piece = self.sock.recv(4096)
            assert piece, f"closed after {data!r}"
            data += piece
        return data

    def rest(self) -> bytes:
        """Everything that still comes; a reset is no orderly end."""
        data = b""
        while piece := self.sock.recv(4096):
            data += piece
        return data


@pytest.fixture
def ask() -> Iterator[Any]:
    """Send a request, do not wait for the answer."""
    made: list[Asked] = []

    def make(server: Trapeze, path: str, *headers: str) -> Asked:
        made.append(Asked(server.listeners[0], path, *headers))
        return made[-1]

    yield make
    for asked in made:
        asked.sock.close()


def up(site: Site, app: str, fields: str) -> Trapeze:
    listener = site.tcp()
    site.write("shop.py", APP)
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "shop:{app}"
        request_timeout = 1.0
        {fields}
        """,
        listeners=[listener],
    )
    server.expect_error("Current thread|Thread 0x|Traceback|ASGI application|Cancel 1 running")
    return server.ready()


def events(server: Trapeze) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.ctl("events", "--json").out.splitlines()]


def wait_for_verdict(server: Trapeze, pid: int) -> None:
    """It has been seen that a request in `pid` takes too long."""

    def look() -> bool:
        found = [process for process in server.service()["processes"] if process["pid"] == pid]
        return not found or WHY in found[0]["why"]

    until(look, timeout=20, what="the verdict")


def test_requests_that_come_after_the_verdict(site: Site, ask: Any) -> None:
    """In threads, and the request that hangs was alone: what its worker accepts before it has heard, it answers."""
    server = up(site, "wsgi", 'backend = "gunicorn"\nthreads = 4\ndrain_grace = 0.1')
    (pid,) = server.pids()
    ask(server, "/deadlock")
    wait_for_verdict(server, pid)

    answers = [ask(server, "/slow") for _ in range(12)]

    for asked in answers:
        assert asked.rest().startswith(b"HTTP/1.1 200")
    until(lambda: any(e["to"] == "EXITED" and e["pid"] == pid for e in events(server)), what="the end of the old one")
    (end,) = [event for event in events(server) if event["to"] == "EXITED" and event["pid"] == pid]
    assert end["why"] == f"{WHY}, killed by SIGKILL"
    assert server.stop() == 0


def test_websockets_beside_a_request_that_never_ends(site: Site, ask: Any) -> None:
    """The loop is well: they get a close frame, and the request is cancelled at the end of the drain."""
    server = up(site, "asgi", 'backend = "uvicorn"\nstop_timeout = 8.0\ndrain_grace = 0.2')
    (pid,) = server.pids()
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    clients = [ask(server, "/", *handshake) for _ in range(3)]
    for client in clients:
        client.read(b"\r\n\r\n")

    ask(server, "/forever")

    for client in clients:
        assert client.rest()[:1] == b"\x88", "a close frame"
    until(lambda: any(e["to"] == "EXITED" and e["pid"] == pid for e in events(server)), what="the end of the old one")
    (end,) = [event for event in events(server) if event["to"] == "EXITED" and event["pid"] == pid]
    assert end["why"] == f"exited with status 0 (recycled: {WHY})"
    assert not any(event["to"] == "KILLING" for event in events(server))
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("app", "backend"),
    [("asgi", 'backend = "uvicorn"'), ("asgi", 'backend = "gunicorn"'), ("wsgi", 'backend = "gunicorn"')],
    ids=["uvicorn", "gunicorn-asgi", "gthread"],
)
def test_a_stream_without_an_end_is_not_timed(site: Site, ask: Any, app: str, backend: str) -> None:
    """It goes on for several times as long, in the same worker, which is not replaced."""
    server = up(site, app, backend)
    (pid,) = server.pids()
    stream = ask(server, "/events")

    for _ in range(35):
        stream.read(b"data: %d\n\n" % pid)

    assert server.pids() == [pid]
    assert not any(WHY in event["why"] for event in events(server))
    assert server.stop() == 0
