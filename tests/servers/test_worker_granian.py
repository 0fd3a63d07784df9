"""What is special to granian: how many connections it takes, what its interface for apps lacks, and its versions."""

from __future__ import annotations

import select
import threading
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


def someone_waits(listener: Listener) -> bool:
    """Is a connection in the queue that nobody has accepted?"""
    return bool(select.select([listener.sock], [], [], 0)[0])


def test_what_no_thread_can_serve_stays_in_the_queue(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="granian", threads=2)
    process.ready()
    inside = [connect(listener), connect(listener)]
    for client in inside:
        client.send("/gate")
        process.entered()
    late = connect(listener)
    late.send("/")
    until(lambda: someone_waits(listener), what="the third connection in the queue")
    sibling = worker([listener], backend="granian", threads=2)
    sibling.ready()
    assert late.answer()[0] == 200
    for _ in inside:
        process.let_go()
    for client in inside:
        assert client.answer()[0] == 200


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_idle_connections_keep_nobody_out(interface: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """granian counts connections, not requests: four permits would be used up by four clients that do nothing."""
    listener = tcp()
    process = worker([listener], backend="granian", app=f"workerapp:{interface}")
    process.ready()
    idle = [connect(listener) for _ in range(40)]
    for client in idle:
        assert client.get()[0] == 200
    late = connect(listener)
    assert late.get()[0] == 200
    process.stop()
    assert process.wait() == 0, process.output


def test_busy_connections_that_are_kept_keep_nobody_out(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="granian", threads=1)
    process.ready()
    over = threading.Event()
    begun = threading.Barrier(4)

    def ask_on_and_on(client: Connection) -> None:
        client.get("/")
        begun.wait()
        while not over.is_set():
            client.get("/")

    threads = [threading.Thread(target=ask_on_and_on, args=[connect(listener)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        begun.wait()
        for _ in range(3):
            assert connect(listener).get("/", Connection="close")[0] == 200
    finally:
        over.set()
        for thread in threads:
            thread.join()
    process.stop()
    assert process.wait() == 0, process.output


def test_no_more_requests_at_once_than_threads(worker: Spawn, connect: Connect, tcp: Make, unix: Make) -> None:
    """Each socket, and each widening, has a pool of threads of its own within granian."""
    both = [tcp(), unix()]
    process = worker(both, backend="granian", threads=1)
    process.ready()
    first, second = connect(both[0]), connect(both[1])
    first.send("/gate")
    process.entered()
    second.send("/gate")
    assert not select.select([process.gate], [], [], 0.3)[0], "a second request is in the app"
    for client in (first, second):
        process.let_go()
        assert client.answer()[0] == 200
        if client is first:
            process.entered()
    process.stop()
    assert process.wait() == 0, process.output


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_keepalive(interface: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="granian", app=f"workerapp:{interface}", keepalive=0.5)
    process.ready()
    client = connect(listener)
    assert client.get()[0] == 200
    before = time.monotonic()
    assert client.is_closed()
    assert 0.3 < time.monotonic() - before < 5
    none = worker([tcp()], backend="granian", app=f"workerapp:{interface}", keepalive=0)
    none.ready()
    other = connect(none.listeners[0])
    assert other.get()[0] == 200
    assert other.is_closed()


APP = """
from workerapp import asgi as hello

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/late":
        def pieces():
            start_response("202 Accepted", [("X-Late", "yes")])
            yield b""
            yield b"late"
        return pieces()
    if path == "/written":
        write = start_response("200 OK", [("Content-Length", "4")])
        write(b"on")
        return [b"ce"]
    if path == "/status":
        start_response("1000 Much", [])
        return [b""]
    if path == "/silent":
        return [b""]
    if path == "/cut":
        start_response("200 OK", [("Content-Type", "text/plain")])
        def broken():
            yield b"one"
            raise RuntimeError("cut off")
        return broken()
    if path == "/lines":
        stream = environ["wsgi.input"]
        body = repr([stream.readline(2), stream.readline(), stream.read(1), *stream.readlines(), stream.read(-1)])
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body.encode()]
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

async def asgi(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/status":
        await send({"type": "http.response.start", "status": 1000, "headers": []})
    if scope["type"] == "http" and scope["path"] == "/cut":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise RuntimeError("cut off")
    await hello(scope, receive, send)
"""


@pytest.fixture
def odd(run_dir: Path, tcp: Make, worker: Spawn) -> Callable[..., tuple[WorkerProcess, Listener]]:
    """An app that does what is allowed and rare, or not allowed."""
    (run_dir / "odd.py").write_text(APP)

    def start(interface: str) -> tuple[WorkerProcess, Listener]:
        listener = tcp()
        process = worker([listener], backend="granian", app=f"odd:{interface}")
        process.ready()
        return process, listener

    return start


Odd = Callable[..., tuple[WorkerProcess, Listener]]


def test_wsgi_as_pep_3333_has_it(odd: Odd, connect: Connect) -> None:
    process, listener = odd("wsgi")
    client = connect(listener)
    client.send("/late", Connection="close")
    rest = client.stream.read()
    assert rest.startswith(b"HTTP/1.1 202")
    assert b"x-late: yes" in rest
    assert b"late\r\n0\r\n\r\n" in rest
    assert connect(listener).get("/written")[2] == b"once"
    client = connect(listener)
    client.send("/lines", "POST", b"one\ntwo\nthree")
    assert client.answer()[2] == b"[b'on', b'e\\n', b't', b'wo\\n', b'three', b'']"
    assert process.output == ""


@pytest.mark.parametrize(("interface", "path"), [("wsgi", "/status"), ("wsgi", "/silent"), ("asgi", "/status")])
def test_what_is_no_answer_is_a_500(interface: str, path: str, odd: Odd, connect: Connect) -> None:
    """granian is compiled to end the process over a status that is none."""
    process, listener = odd(interface)
    assert connect(listener).get(path)[0] == 500
    assert "Error: " in process.output
    assert connect(listener).get("/")[0] == 200


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_an_answer_that_fails_on_its_way_is_cut_off(interface: str, odd: Odd, connect: Connect) -> None:
    process, listener = odd(interface)
    client = connect(listener)
    client.send("/cut")
    assert not client.stream.read().endswith(b"0\r\n\r\n")
    assert process.output.count("RuntimeError: cut off") == 1
    assert process.output.startswith("Traceback (most recent call last):")
    assert connect(listener).get("/")[0] == 200


def test_http2_without_tls(worker: Spawn, tcp: Make, connect: Connect) -> None:
    """Prior knowledge: the preface, an empty SETTINGS frame; the server's own SETTINGS come back."""
    listener = tcp()
    process = worker([listener], backend="granian", app="workerapp:asgi")
    process.ready()
    client = connect(listener)
    client.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    head = client.stream.read(9)
    assert (head[3], head[4]) == (4, 0), "a SETTINGS frame"
    process.stop()
    assert b"\x07" in {frame[3:4] for frame in frames(head + client.stream.read())}, "GOAWAY"
    client.close()
    assert process.wait() == 0, process.output


def frames(data: bytes) -> list[bytes]:
    """Take HTTP/2 frames apart."""
    found = []
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:end])
        data = data[end:]
    return found


def test_check_names_a_version_that_is_not_known(run_dir: Path) -> None:
    """Its classes may be others: it is said before a worker finds out by a TypeError."""
    site = run_dir / "site"
    (site / "granian").mkdir(parents=True)
    (site / "granian" / "__init__.py").touch()
    (site / "granian-3.1.0.dist-info").mkdir()
    answer = check(backend="granian", app_dir=str(site))
    assert answer["problems"] == [
        {
            "field": "backend",
            "reason": "granian 3.1.0 is not one that trapeze knows (from 2.8.9 on, before 2.9)",
            "hint": "pip install 'granian>=2.8.9,<2.9'",
        }
    ]
