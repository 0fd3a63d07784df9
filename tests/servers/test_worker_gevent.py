"""gevent's own server: WebSockets, and how many it serves at a time."""

from __future__ import annotations

import base64
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import Connection, WorkerProcess, check

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

ECHO = """
def app(environ, start_response):
    socket = environ.get("wsgi.websocket")
    if socket is None:
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]
    while True:
        message = socket.receive()
        if message is None:
            print("websocket closed", flush=True)
            return []
        socket.send(message)
"""

OPTIONS = {"websocket": True}

RESOURCE = """
from geventwebsocket.resource import Resource, WebSocketApplication

class Echo(WebSocketApplication):
    @classmethod
    def protocol_name(cls):
        return "chat"

    def on_message(self, message):
        if message is not None:
            self.ws.send(message)

app = Resource([("/", Echo)])
"""


def upgraded(client: Connection, **headers: str) -> None:
    """Make a WebSocket of the connection, and see that it works, in the protocol that was asked for."""
    key = base64.b64encode(os.urandom(16)).decode()
    asked = {"Connection": "Upgrade", "Sec_WebSocket_Key": key, "Sec_WebSocket_Version": "13", **headers}
    client.send("/", "GET", b"", Upgrade="websocket", **asked)
    assert b"101" in client.stream.readline()
    answered = b"".join(iter(client.stream.readline, b"\r\n"))
    for protocol in headers.values():
        assert f"Sec-WebSocket-Protocol: {protocol}".encode() in answered
    client.sock.sendall(b"\x81\x82\0\0\0\0hi")
    assert client.stream.read(4) == b"\x81\x02hi"


def read_close(client: Connection) -> int:
    """The code of the close frame that comes next."""
    assert client.stream.read(1) == b"\x88"
    length = client.stream.read(1)[0]
    return int.from_bytes(client.stream.read(length)[:2], "big")


@pytest.fixture
def serving(run_dir: Path, worker: Spawn, tcp: Make, unix: Make) -> WorkerProcess:
    (run_dir / "echo.py").write_text(ECHO)
    process = worker([tcp(), unix()], app="echo:app", backend="gevent", options=OPTIONS, stop_timeout=8.0)
    process.ready()
    return process


def test_websockets_end_at_the_grace(serving: WorkerProcess, connect: Connect) -> None:
    """Several on one Unix socket too: gevent-websocket knows its clients by their address, and there they have none."""
    clients = [connect(listener) for listener in serving.listeners for _ in range(2)]
    for client in clients:
        upgraded(client)
    serving.stop()
    for client in clients:
        assert read_close(client) == 1012
        client.sock.sendall(b"\x88\x82\0\0\0\0\x03\xf4")
        assert client.is_closed()
    assert serving.wait() == 0, serving.output
    assert serving.output == "websocket closed\n" * 4


def test_a_client_that_does_not_answer_the_close_is_not_waited_for(serving: WorkerProcess, connect: Connect) -> None:
    client = connect(serving.listeners[0])
    upgraded(client)
    began = time.monotonic()
    serving.stop()
    assert read_close(client) == 1012
    assert serving.wait() == 0, serving.output
    assert time.monotonic() - began < 5


def test_websocket_closed_by_the_client(serving: WorkerProcess, connect: Connect) -> None:
    first, second = connect(serving.listeners[1]), connect(serving.listeners[1])
    upgraded(first)
    upgraded(second)
    first.sock.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
    assert read_close(first) == 1000
    until(lambda: "websocket closed" in serving.output, what="the app to hear of it")
    second.sock.sendall(b"\x81\x82\0\0\0\0hi")
    assert second.stream.read(4) == b"\x81\x02hi"
    assert connect(serving.listeners[0]).get()[2] == b"hello"


def test_protocol_of_a_resource(worker: Spawn, connect: Connect, tcp: Make, run_dir: Path) -> None:
    """gevent-websocket asks the app itself, which has others around it."""
    (run_dir / "resource.py").write_text(RESOURCE)
    listener = tcp()
    process = worker(
        [listener], app="resource:app", backend="gevent", options=OPTIONS, access_log=True, interface="wsgi"
    )
    process.ready()
    client = connect(listener)
    upgraded(client, Sec_WebSocket_Protocol="chat")
    process.stop()
    assert read_close(client) == 1012
    assert process.wait() == 0, process.output
    assert "Traceback" not in process.output


def test_what_it_speaks() -> None:
    assert check(backend="gevent", interface="wsgi")["speaks"] == []
    assert check(backend="gevent", interface="wsgi", options=OPTIONS)["speaks"] == ["websocket"]
    chaussette = {"backend": "geventwebsocket"}
    assert check(backend="chaussette", interface="wsgi", options=chaussette)["speaks"] == ["websocket"]


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"options": {"handler_class": "x"}}, "options.handler_class",
         "gevent's handler_class has no place here: only `websocket` chooses it"),
        ({"options": {"spwan": 3}}, "options.spwan", "gevent has no such setting"),
        ({"options": {"spawn": "many"}}, "options.spawn", "'many' is not a whole number"),
        ({"threads": 2}, "threads", "gevent has no threads, it serves by green ones"),
    ],
)  # fmt: skip
def test_options(fields: dict[str, Any], field: str, reason: str) -> None:
    assert (field, reason) in [
        (each["field"], each["reason"]) for each in check(backend="gevent", interface="wsgi", **fields)["problems"]
    ]


def test_no_more_at_a_time_than_spawn_says(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="gevent", options={"spawn": 1, "environ": {"shop.name": "one"}})
    process.ready()
    inside = connect(listener)
    inside.send("/gate", Connection="close")
    process.entered()
    late = connect(listener)
    late.send("/environ", Connection="close")
    until(lambda: bool(select.select([listener.sock], [], [], 0)[0]), what="the second in the queue")
    process.let_go()
    assert inside.answer()[0] == 200
    assert b'"shop.name": "one"' in late.answer()[2]
