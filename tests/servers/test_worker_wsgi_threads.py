"""WSGI apps on servers that are event loops: streams, errors and bodies, as PEP 3333 wants them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.workerkit import Connection, WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

APP = """
import json, os, socket
from wsgiref.validate import validator

def gate():
    end = socket.socket(fileno=os.dup(int(os.environ["GATE"])))
    end.sendall(b"in ")
    end.recv(1)
    end.close()

def pieces(closed):
    try:
        yield b"first "
        gate()
        yield b"second"
    finally:
        print("closed", closed, flush=True)

def failing():
    yield b"begun"
    raise LookupError("no such shelf")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise LookupError("no such shelf")
    if path == "/never":
        return [b"never"]
    if path == "/204":
        start_response("204 No Content", [])
        return []
    if path == "/304":
        start_response("304 Not Modified", [("ETag", "x")])
        return [b""]
    if path == "/body":
        body = json.dumps([environ.get("CONTENT_LENGTH"), environ["wsgi.input"].read().decode(),
                           environ.get("HTTP_X_FORWARDED_FOR"), environ.get("HTTP_COOKIE")]).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if path == "/write":
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        return [b"and", b" returned"]
    if path == "/late":
        try:
            start_response("200 OK", [("X-Thing", "one")])
            raise LookupError("no such shelf")
        except LookupError:
            import sys
            start_response("503 Sorry", [("X-Thing", "two")], sys.exc_info())
        return [b"sorry"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/stream":
        return pieces(path)
    if path == "/breaks":
        return failing()
    return [b"he", b"llo"]

@validator
def valid(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body or b"valid"]
"""

every_server = pytest.mark.parametrize("backend", ["hypercorn", "tornado"])


@pytest.fixture
def start(worker: Spawn, tcp: Make, run_dir: Path) -> Callable[..., tuple[WorkerProcess, Listener]]:
    """A worker with the app above."""
    (run_dir / "threadapp.py").write_text(APP)

    def made(backend: str, app: str = "app", **fields: Any) -> tuple[WorkerProcess, Listener]:
        listener = tcp()
        process = worker([listener], app=f"threadapp:{app}", backend=backend, **fields)
        process.ready()
        return process, listener

    return made


@every_server
@pytest.mark.parametrize(
    ("path", "method", "status", "body", "length"),
    [
        ("/", "GET", 200, b"hello", "5"),
        ("/", "HEAD", 200, b"", "5"),
        ("/204", "GET", 204, b"", None),
        ("/304", "GET", 304, b"", None),
        ("/late", "GET", 503, b"sorry", "5"),
    ],
)
def test_answers_in_one_piece(
    backend: str, path: str, method: str, status: int, body: bytes, length: str | None, start: Make, connect: Connect
) -> None:
    _, listener = start(backend)
    client = connect(listener)
    client.send(path, method)
    head = client.stream.readline()
    headers = {}
    while (line := client.stream.readline().decode().strip()) != "":
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    assert int(head.split()[1]) == status
    assert headers.get("content-length") == length and "transfer-encoding" not in headers
    assert client.stream.read(len(body)) == body
    if path == "/late":
        assert headers["x-thing"] == "two"
    assert client.get("/")[2] == b"hello", "the connection is in order"


@every_server
def test_first_piece_is_sent_before_there_is_a_second(backend: str, start: Make, connect: Connect) -> None:
    process, listener = start(backend)
    client = connect(listener)
    client.send("/stream", Connection="close")
    process.entered()
    begin = b""
    while b"first " not in begin:
        begin += client.stream.readline()
        if begin.endswith(b"\r\n\r\n"):
            begin += client.stream.readline() + client.stream.read(6)
    process.let_go()
    assert b"second" in client.stream.read()
    process.stop()
    assert process.wait() == 0
    assert "closed /stream" in process.output


@every_server
@pytest.mark.parametrize("path", ["/raises", "/never"])
def test_an_error_is_a_500_and_a_traceback(backend: str, path: str, start: Make, connect: Connect) -> None:
    process, listener = start(backend)
    client = connect(listener)
    assert client.get(path)[::2] == (500, b"Internal Server Error")
    assert client.get("/")[0] == 200
    assert ("LookupError" if path == "/raises" else "did not call start_response") in process.output
    assert process.output.count("Traceback") == 1


@every_server
def test_an_error_in_the_middle_cuts_the_answer(backend: str, start: Make, connect: Connect) -> None:
    """Nobody may take it for the end."""
    process, listener = start(backend)
    client = connect(listener)
    client.send("/breaks")
    answer = client.stream.read()
    assert b"begun" in answer and not answer.endswith(b"0\r\n\r\n")
    assert "LookupError" in process.output


@every_server
def test_what_is_written_and_what_is_returned(backend: str, start: Make, connect: Connect) -> None:
    _, listener = start(backend)
    assert listener.get("/write").text == "written and returned"


@every_server
def test_body_in_chunks_and_headers_with_underscores(backend: str, start: Make, connect: Connect) -> None:
    """A client's X_Forwarded_For would pass for a proxy's X-Forwarded-For."""
    _, listener = start(backend, trusted_proxies=["192.0.2.1"])
    client = connect(listener)
    client.sock.sendall(
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX_Forwarded_For: 192.0.2.7\r\n"
        b"Cookie: a=b\r\nCookie: c=d\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    length, body, forwarded, cookie = json.loads(client.answer()[2])
    assert (length, body, forwarded) == ("5", "abcde", None)
    assert cookie in ("a=b; c=d", "a=b,c=d")


@every_server
def test_environ_is_valid(backend: str, start: Make) -> None:
    process, listener = start(backend, "valid", interface="wsgi")
    with listener.client() as client:
        assert client.get("/a%20b?c=%20d").text == "valid", process.output
        assert client.post("/x", content=b"body", headers={"content-type": "text/plain"}).text == "body"
    assert process.output == ""


@pytest.mark.parametrize(("backend", "options"), [("hypercorn", {"wsgi_max_body_size": 10})])
def test_a_body_that_is_too_long_is_refused(
    backend: str, options: dict[str, int], start: Make, connect: Connect
) -> None:
    _, listener = start(backend, options=options)
    client = connect(listener)
    client.send("/body", "POST", b"x" * 11)
    assert client.answer()[0] == 413
