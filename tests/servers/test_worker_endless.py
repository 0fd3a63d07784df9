"""What a leaving worker ends at `drain_grace`, and what it lets go on: endless answers, WebSockets, half a request."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import BACKENDS, Case, Connection, WorkerProcess, about

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

GRACE = 0.3
STOP_TIMEOUT = 8.0
"""Seconds; what is ended at the grace ends long before."""

APP = """
import time

PIECE = b"data: x\\n\\n"

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events()
    if path == "/export":
        start_response("200 OK", [("Content-Type", "text/csv")])
        return export()
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

def events():
    try:
        while True:
            yield PIECE
            time.sleep(0.05)
    finally:
        print("events closed", flush=True)

def export():
    for number in range(20):
        yield b"%d," % number
        time.sleep(0.05)

async def asgi(scope, receive, send):
    import asyncio
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                print("websocket closed", message.get("code"), flush=True)
                return
            await send({"type": "websocket.send", "text": message["text"]})
    path = scope["path"]
    body = {"type": "http.response.body", "more_body": True}
    if path in ("/events", "/deaf", "/silent"):
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")]})
        await send({**body, "body": PIECE})
    if path == "/events":
        gone = asyncio.ensure_future(disconnect(receive))
        while not gone.done():
            await send({**body, "body": PIECE})
            await asyncio.wait([gone], timeout=0.05)
        print("events closed", flush=True)
    elif path == "/silent":
        await disconnect(receive)
        print("events closed", flush=True)
    elif path == "/deaf":
        try:
            await asyncio.Event().wait()
        finally:
            print("events closed", flush=True)
    elif path == "/export":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv")]})
        for number in range(20):
            await send({**body, "body": b"%d," % number})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})

async def disconnect(receive):
    while (await receive())["type"] != "http.disconnect":
        pass

def __getattr__(name):
    import nativeapp
    return nativeapp.make(name, asgi)
"""

MORE = [
    Case("uvicorn-uvloop-h11", "uvicorn", {"http": "h11"}, interface="asgi"),
    Case("uvicorn-asyncio-httptools", "uvicorn", {"loop": "asyncio"}, interface="asgi"),
]
ALL = [*BACKENDS, *MORE]
LOOPS = [case for case in ALL if case.interface != "wsgi"]
KEEPING = [case for case in ALL if case.keepalive]


@pytest.fixture
def start(run_dir: Path, tcp: Make, worker: Spawn) -> Callable[..., tuple[WorkerProcess, Listener]]:
    """A ready worker, and its socket."""
    (run_dir / "endless.py").write_text(APP)

    def made(case: Case, **fields: Any) -> tuple[WorkerProcess, Listener]:
        listener = tcp()
        options = dict(case.options)
        if options.get("backend") == "eventlet":
            options["minimum_chunk_size"] = 1  # or it collects pieces until they are worth sending
        job = {"drain_grace": GRACE, "stop_timeout": STOP_TIMEOUT, **fields}
        process = worker([listener], app=f"endless:{case.interface}", backend=case.backend, options=options, **job)
        process.ready()
        return process, listener

    return made


def rest(client: Connection) -> bytes:
    """Everything up to the end."""
    return client.stream.read()


def passed(seconds: float) -> None:
    """Let some time go by: it is what the test is about."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, timeout=seconds + 5)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_events_end_at_the_grace(case: Case, start: Make, connect: Connect) -> None:
    process, listener = start(case)
    client = connect(listener)
    client.send("/events")
    while b"data: x" not in client.stream.readline():
        pass
    before = time.monotonic()
    process.stop()
    end = rest(client)
    took = time.monotonic() - before
    client.close()
    assert process.wait() == 0, process.output
    assert GRACE * 0.9 <= took < STOP_TIMEOUT / 2
    assert end.endswith(b"0\r\n\r\n") or b"\r\n8\r\n" not in end[-40:], "an orderly end, where the answer is in chunks"
    assert "events closed" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("path", ["/silent", "/deaf"])
@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_silent_events_end_too(case: Case, path: str, start: Make, connect: Connect) -> None:
    process, listener = start(case)
    client = connect(listener)
    client.send(path)
    while b"data: x" not in client.stream.readline():
        pass
    before = time.monotonic()
    process.stop()
    rest(client)
    client.close()
    assert process.wait() == 0, process.output
    assert time.monotonic() - before < STOP_TIMEOUT / 2 + 1
    assert "events closed" in process.output


@pytest.mark.parametrize("case", ALL, ids=str)
def test_export_in_chunks_goes_on_to_its_end(case: Case, start: Make, connect: Connect) -> None:
    process, listener = start(case)
    client = connect(listener)
    client.send("/export")
    begin = b""
    while b"0," not in begin:
        begin += client.stream.readline()
        if begin.endswith(b"\r\n\r\n"):
            begin += client.stream.read(2)
    process.stop()
    assert b"19," in rest(client)
    client.close()
    assert process.wait() == 0, process.output


WEBSOCKETS = [Case(f"uvicorn-{library}", "uvicorn", {"ws": library}, interface="asgi")
              for library in ("websockets", "websockets-sansio", "wsproto")]  # fmt: skip
WEBSOCKETS += [case for case in BACKENDS if case.interface != "wsgi" and case.backend != "uvicorn"]


@pytest.mark.parametrize("case", WEBSOCKETS, ids=str)
def test_websocket_gets_a_close_frame_at_the_grace(case: Case, start: Make, connect: Connect) -> None:
    process, listener = start(case)
    client = connect(listener)
    key = base64.b64encode(os.urandom(16)).decode()
    client.send("/", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Key=key, Sec_WebSocket_Version="13")
    assert b"101" in client.stream.readline()
    while client.stream.readline() != b"\r\n":
        pass
    client.sock.sendall(b"\x81\x82\0\0\0\0hi")
    assert client.stream.read(4) == b"\x81\x02hi"
    before = time.monotonic()
    process.stop()
    assert client.stream.read(1) == b"\x88", "a close frame"
    assert time.monotonic() - before >= GRACE * 0.9
    length = client.stream.read(1)[0]
    assert int.from_bytes(client.stream.read(length)[:2], "big") in (1001, 1012)
    client.sock.sendall(b"\x88\x82\0\0\0\0\x03\xf4")
    client.close()
    assert process.wait() == 0, process.output
    assert time.monotonic() - before < STOP_TIMEOUT / 2
    assert "websocket closed" in process.output


@pytest.mark.parametrize("case", ALL, ids=str)
def test_half_a_head_is_a_request(case: Case, start: Make, connect: Connect) -> None:
    process, listener = start(case)
    client = connect(listener)
    if case.keepalive:
        assert client.get()[0] == 200
        passed(0.05)  # bjoern tells by a clock of the kernel's that ticks each few milliseconds
    client.sock.sendall(b"GET / HT")
    if not case.keepalive:  # nothing tells when it was accepted; a second connection may not come in between
        passed(0.1)
    process.stop()
    passed(2 * GRACE)
    client.sock.sendall(b"TP/1.1\r\nHost: exam")
    passed(GRACE)
    client.sock.sendall(b"ple.com\r\n\r\n")
    assert client.answer()[0] == 200
    client.close()
    assert process.wait() == 0, process.output


@pytest.mark.parametrize("case", KEEPING, ids=str)
def test_request_that_came_before_the_idle_close_is_answered(case: Case, start: Make, connect: Connect) -> None:
    """The worker is held until its grace is over, and a request has come: it must look before it closes."""
    process, listener = start(case)
    clients = [connect(listener) for _ in range(3)]
    for client in clients:
        assert client.get()[0] == 200
    process.stop()
    process.process.send_signal(signal.SIGSTOP)
    passed(2 * GRACE)
    for client in clients:
        client.send()
    process.process.send_signal(signal.SIGCONT)
    for client in clients:
        status, headers, _ = client.answer()
        assert status == 200
        assert "close" in headers["connection"].split(), "bjoern adds its own keep-alive"
        client.close()
    assert process.wait() == 0, process.output


@pytest.mark.parametrize("case", ALL, ids=str)
def test_silent_connection_does_not_hold_the_worker(case: Case, start: Make, connect: Connect) -> None:
    takes = about(case)["fields"]["keepalive"] != "no"
    process, listener = start(case, keepalive=60.0 if takes else None)
    silent = connect(listener)
    kept = None
    if case.concurrent and case.keepalive:
        kept = connect(listener)
        assert kept.get()[0] == 200
    passed(0.1)
    before = time.monotonic()
    process.stop()
    assert silent.is_closed()
    assert kept is None or kept.is_closed()
    assert process.wait() == 0, process.output
    assert time.monotonic() - before < STOP_TIMEOUT / 2
