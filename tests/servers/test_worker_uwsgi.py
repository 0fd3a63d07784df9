"""uWSGI: what we do for it around the app, with one thread as well, and how it tells why it does not start."""

from __future__ import annotations

import json
import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import BACKENDS, Case, Connection, WorkerProcess, check

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

UWSGI = [case for case in BACKENDS if case.backend == "uwsgi"]
both_ways = pytest.mark.parametrize("case", UWSGI, ids=str)

APP = """
def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise ValueError("boom")
    if path == "/export":
        start_response("200 OK", [("Content-Type", "text/csv")])
        return (b"%d," % number for number in range(5))
    if path == "/cut":
        start_response("200 OK", [("Content-Type", "text/csv")])
        return cut()
    if path == "/write":
        start_response("200 OK", [])(b"written ")
        return [b"and returned"]
    if path == "/again":
        start_response("200 OK", [])
        try:
            1 / 0
        except ZeroDivisionError:
            import sys
            start_response("503 Later", [("Content-Length", "5")], sys.exc_info())
        return [b"later"]
    if path == "/unread":
        body = b""
    elif "HTTP_TRANSFER_ENCODING" in environ:
        body = environ["wsgi.input"].read()
    else:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    text = b"%d" % len(body)
    start_response("200 OK", [("Content-Length", str(len(text))), ("Connection", "keep-alive")])
    return [text]

def cut():
    yield b"one"
    raise ValueError("after the beginning")
"""


@pytest.fixture
def served(run_dir: Path, worker: Spawn, tcp: Make) -> Callable[..., tuple[WorkerProcess, Listener]]:
    """The app above, ready."""
    (run_dir / "asked.py").write_text(APP)

    def start(case: Case, **fields: Any) -> tuple[WorkerProcess, Listener]:
        listener = tcp()
        process = worker([listener], app="asked:wsgi", backend="uwsgi", options=case.options, **fields)
        process.ready()
        return process, listener

    return start


def exchange(listener: Listener, request: bytes) -> bytes:
    """Send some bytes, return all that comes until the other side closes."""
    with socket.create_connection(listener.sock.getsockname()[:2], timeout=10) as sock:
        sock.sendall(request)
        found = b""
        while data := sock.recv(65536):
            found += data
        return found


def head(*lines: str, method: str = "GET", path: str = "/") -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@both_ways
def test_answers(case: Case, served: Make) -> None:
    process, listener = served(case)
    closed = exchange(listener, head())
    assert closed.count(b"Connection: ") == 2, "the app's own, and the one that counts"
    assert closed.endswith(b"Connection: close\r\n\r\n0")
    assert exchange(listener, head(method="HEAD")).endswith(b"\r\n\r\n"), "no body"
    assert exchange(listener, head(path="/boom")).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    export = exchange(listener, head(path="/export"))
    assert b"Transfer-Encoding: chunked\r\n" in export and export.endswith(b"2\r\n4,\r\n0\r\n\r\n")
    assert exchange(listener, head(path="/cut")).endswith(b"3\r\none\r\n"), "no end, and so known to be cut"
    assert exchange(listener, head(path="/write")).endswith(b"\r\n\r\nwritten and returned")
    again = exchange(listener, head(path="/again"))
    assert again.startswith(b"HTTP/1.1 503 Later\r\n") and again.endswith(b"later")
    assert b"Transfer" not in exchange(listener, head(path="/export").replace(b"/1.1", b"/1.0", 1))
    process.stop()
    assert process.wait() == 0
    assert process.output.count("Traceback") == 2, process.output
    assert "ValueError: boom" in process.output and "ValueError: after the beginning" in process.output


@both_ways
def test_bodies(case: Case, served: Make) -> None:
    _, listener = served(case)
    chunks = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in (1, 5000, 1_000_000)) + b"0\r\n\r\n"
    request = head("Transfer-Encoding: chunked", method="POST") + chunks
    assert exchange(listener, request).endswith(b"\r\n\r\n1005001")
    both = head("Content-Length: 3", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n"
    assert exchange(listener, both).endswith(b"\r\n\r\n5"), "the chunks count, and the connection ends"
    unread = head("Content-Length: 500000", method="POST", path="/unread") + b"x" * 500_000
    assert exchange(listener, unread).endswith(b"\r\n\r\n0"), "not reset"
    asks = head("Content-Length: 2", "Expect: 100-continue", method="POST") + b"hi"
    assert exchange(listener, asks).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@both_ways
@pytest.mark.parametrize(
    "request_",
    [
        head("X-Thing : 1"),
        head("X-Thing: 1\nX-Other: 2"),
        head("X-Thing: 1", " folded"),
        head("Content-Length: 3", "Content-Length: 4", method="POST") + b"four",
        head("Content-Length: +3", method="POST") + b"123",
        b"NONSENSE\r\n\r\n",
    ],
    ids=["space", "bare LF", "folded", "two lengths", "signed length", "nonsense"],
)
def test_heads_that_can_be_read_in_two_ways_are_refused(case: Case, request_: bytes, served: Make) -> None:
    process, listener = served(case)
    answer = exchange(listener, request_)
    assert answer == b"" or b" 400 Bad Request\r\n" in answer
    unknown = exchange(listener, head("Transfer-Encoding: gzip, chunked", method="POST") + b"0\r\n\r\n")
    assert b" 501 Not Implemented\r\n" in unknown
    assert exchange(listener, head(path="/a%0Ab?c=%0A")).startswith(b"HTTP/1.1 200 OK"), "a path may have anything"
    assert "Traceback" not in process.output


@both_ways
def test_one_thread_leaves_in_order_too(case: Case, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """uWSGI's own handler would leave from wherever its only thread is, unless that is in a request."""
    listener = tcp()
    process = worker([listener], backend="uwsgi", options=case.options, threads=1, drain_grace=5.0)
    process.ready()
    early = connect(listener)
    early.send("/gate")
    process.entered()
    late = connect(listener)
    late.send()
    process.stop()
    process.let_go()
    assert early.answer()[0] == 200
    assert process.wait() == 0, process.output
    worker([listener], backend="uwsgi", options=case.options).ready()
    assert late.answer()[0] == 200, "it stayed in the queue"


def test_what_no_thread_can_serve_stays_in_the_queue(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="uwsgi", threads=2)
    process.ready()
    inside = [connect(listener), connect(listener)]
    for client in inside:
        client.send("/gate")
        process.entered()
    late = connect(listener)
    late.send()
    until(lambda: bool(select.select([listener.sock], [], [], 0)[0]), what="the third in the queue")
    worker([listener], backend="uwsgi", threads=2).ready()
    assert late.answer()[0] == 200
    for _ in inside:
        process.let_go()
    assert [client.answer()[0] for client in inside] == [200, 200]


def test_it_says_nothing_of_itself(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="uwsgi")
    process.ready()
    assert connect(listener).get()[0] == 200
    process.stop()
    assert process.wait() == 0
    assert process.output == ""


def test_the_app_finds_python_as_it_was(worker: Spawn, connect: Connect, tcp: Make, run_dir: Path) -> None:
    (run_dir / "looks.py").write_text(
        "import json, sys, threading\n"
        "before = sys.executable, list(sys.path), list(sys.argv)\n"
        "def wsgi(environ, start_response):\n"
        "    same = before == (sys.executable, sys.path, sys.argv)\n"
        "    body = json.dumps([same, sys.executable, '.' in sys.path]).encode()\n"
        "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
        "    return [body]\n"
    )
    for case in UWSGI:
        listener = tcp()
        worker([listener], app="looks:wsgi", backend="uwsgi", options=case.options).ready()
        assert json.loads(connect(listener).get()[2]) == [True, sys.executable, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"route": "x"}, "uWSGI did not start: invalid route syntax"),
        ({"static-map": "x"}, "uWSGI did not start: invalid document root in static map"),
        ({"bufer-size": 1}, "uWSGI did not start: "),
    ],
    ids=["value", "another value", "name"],
)
def test_why_it_does_not_start(options: dict[str, Any], message: str, worker: Spawn, tcp: Make) -> None:
    """It ends by exit() in the middle of a call, and what it says on stderr is shown as the reason."""
    process = worker([tcp()], backend="uwsgi", options=options)
    said = process.error()
    assert said["message"].startswith(message)
    assert process.output == ""


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"options": {"bufer-size": 1}}, "options.bufer-size", "uWSGI has no such option"),
        ({"options": {"http11-socket": ":1"}}, "options.http11-socket", "the sockets of the service are bound by"),
        ({"options": {"master": True}}, "options.master", "there is no uWSGI master process"),
        ({"options": {"touch-reload": "x"}}, "options.touch-reload", "there is no uWSGI master process"),
        ({"options": {"threads": 2}}, "options.threads", "use the field `threads`"),
        ({"options": {"gevent": 2}}, "options.gevent", "threads are what it is served by"),
        ({"options": {"log-format": "x"}}, "options.log-format", "use the field `access_log`"),
        ({"options": {"buffer-size": {}}}, "options.buffer-size", "expected text"),
        ({"options": {"binary-path": "/no/uwsgi"}}, "options.binary-path", "/no/uwsgi: there is no such program"),
        ({"options": {"binary-path": "/bin/true"}}, "backend", "/bin/true has no Python in it"),
        ({"keepalive": 5.0}, "keepalive", "uwsgi closes each connection"),
    ],
)
def test_what_cannot_be_had(fields: dict[str, Any], field: str, reason: str) -> None:
    problems = check(backend="uwsgi", **fields)["problems"]
    assert [problem["field"] for problem in problems] == [field]
    assert reason in problems[0]["reason"]


def test_close_name_is_suggested() -> None:
    found = check(backend="uwsgi", options={"bufer-size": 65536, "buffer-size": 65536})["problems"]
    assert [problem["hint"] for problem in found] == ["did you mean 'buffer-size'?"]


def test_preload_is_refused_where_the_program_imports_the_app() -> None:
    program = next(case for case in UWSGI if "binary-path" in case.options)
    (problem,) = check(backend="uwsgi", options=program.options, preload=True)["problems"]
    assert problem["field"] == "preload" and "imports the app itself" in problem["reason"]
    assert check(backend="uwsgi", preload=True)["problems"] == []


def test_options_from_the_environment_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UWSGI_PROCESSES", "4")
    (problem,) = check(backend="uwsgi")["problems"]
    assert problem["field"] == "env" and "UWSGI_PROCESSES" in problem["reason"]
