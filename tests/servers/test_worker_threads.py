"""waitress, cheroot and werkzeug: what is special to them."""

from __future__ import annotations

import json
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

keeping = pytest.mark.parametrize("backend", ["waitress", "cheroot"])


def problems(**fields: Any) -> list[tuple[str, str]]:
    """Field and reason of what a check finds."""
    return [(each["field"], each["reason"]) for each in check(interface="wsgi", **fields)["problems"]]


def passed(seconds: float) -> None:
    """Let some time go by: it is what the test is about."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, what="a while")


@keeping
def test_keepalive_closes_idle_connections(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """waitress's own looks for them twice a minute."""
    listener = tcp()
    worker([listener], backend=backend, keepalive=1.0).ready()
    kept = connect(listener)
    assert kept.get()[0] == 200
    began = time.monotonic()
    assert kept.is_closed()
    assert 0.5 < time.monotonic() - began < 5


@keeping
def test_keepalive_is_not_for_new_connections(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    worker([listener], backend=backend, keepalive=1.0).ready()
    new = connect(listener)
    passed(3.0)
    assert new.get()[0] == 200


@keeping
def test_kept_connections_are_served_while_they_are_used(
    backend: str, worker: Spawn, connect: Connect, tcp: Make
) -> None:
    listener = tcp()
    worker([listener], backend=backend, keepalive=2.0).ready()
    kept = connect(listener)
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        assert kept.get()[0] == 200
        passed(0.3)


@keeping
def test_more_requests_than_threads_make_no_noise(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    """waitress's own writes a line for each that has to wait."""
    listener = tcp()
    process = worker([listener], backend=backend, threads=1)
    process.ready()
    clients = [connect(listener) for _ in range(4)]
    for client in clients:
        assert client.get()[0] == 200
    clients[0].send("/gate")
    process.entered()
    for client in clients[1:]:
        client.send()
    process.let_go()
    for client in clients:
        assert client.answer()[0] == 200
    process.stop()
    assert process.wait() == 0
    assert process.output == ""


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"threads": 2}, ("options.threads", "set twice: it is the same as the field `threads`")),
        ({"theads": 2}, ("options.theads", "waitress has no such setting")),
        ({"threads": "many"}, ("options.threads", "waitress: invalid literal for int() with base 10: 'many'")),
        ({"url_prefix": "/x"},
         ("options.url_prefix", "waitress's url_prefix has no place here: use the field `root_path`")),
    ],
)  # fmt: skip
def test_options_of_waitress(options: dict[str, Any], found: tuple[str, str]) -> None:
    assert found in problems(backend="waitress", options=options, threads=3)


def test_the_proxy_that_waitress_s_own_setting_trusts(worker: Spawn, connect: Connect, tcp: Make, unix: Make) -> None:
    both = [tcp(), unix()]
    for said, schemes in (("localhost", ["http", "https"]), ("127.0.0.1", ["https", "http"]), ("*", ["https"] * 2)):
        process = worker(both, backend="waitress", options={"trusted_proxy": said})
        process.ready()
        answers = [connect(each).get("/environ", X_Forwarded_Proto="https", Connection="close")[2] for each in both]
        assert [json.loads(answer)["wsgi.url_scheme"] for answer in answers] == schemes
        process.stop()
        assert process.wait() == 0, process.output


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"numthreads": 2}, ("options.numthreads", "set twice: it is the same as the field `threads`")),
        ({"request_queue_size": 2},
         ("options.request_queue_size", "cheroot's request_queue_size has no place here: it belongs to the socket")),
        ({"timeout": "1"}, ("options.timeout", "'1' is not a number")),
        ({"numthread": 1}, ("options.numthread", "cheroot has no such setting")),
    ],
)  # fmt: skip
def test_options_of_cheroot(options: dict[str, Any], found: tuple[str, str]) -> None:
    assert found in problems(backend="cheroot", options=options, threads=3)


def test_options_reach_cheroot(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    options = {"numthreads": 1, "server_name": "me", "max_request_header_size": 200, "keep_alive_conn_limit": 0}
    worker([listener], backend="cheroot", options=options).ready()
    _, headers, _ = connect(listener).get()
    assert (headers["server"], headers["connection"]) == ("me", "close")
    assert connect(listener).get(X_Long="x" * 300)[0] == 413


@keeping
def test_no_connection_is_kept_at_all(backend: str, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    worker([listener], backend=backend, keepalive=0).ready()
    client = connect(listener)
    assert client.get()[1]["connection"] == "close"
    assert client.is_closed()


BODIES = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/exit":
        raise SystemExit(3)
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


def test_what_the_app_leaves_of_a_body_is_no_request(worker: Spawn, connect: Connect, tcp: Make, run_dir: Path) -> None:
    """cheroot's own takes the rest of a body in chunks for the next request."""
    (run_dir / "bodies.py").write_text(BODIES)
    listener = tcp()
    worker([listener], app="bodies:app", backend="cheroot").ready()
    client = connect(listener)
    smuggled = b"GET /exit HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(2):
        client.sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sock.sendall(b"%x\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(smuggled), smuggled))
        assert client.answer()[0] == 200
    assert client.get()[0] == 200


def test_an_app_that_exits_costs_cheroot_no_thread(worker: Spawn, connect: Connect, tcp: Make, run_dir: Path) -> None:
    (run_dir / "bodies.py").write_text(BODIES)
    listener = tcp()
    process = worker([listener], app="bodies:app", backend="cheroot", threads=1)
    process.ready()
    for _ in range(3):
        assert connect(listener).get("/exit")[0] == 500
    assert connect(listener).get()[0] == 200
    assert "the app exits (3)" in process.output


def test_the_last_answer_arrives_though_more_was_sent(worker: Spawn, connect: Connect, tcp: Make) -> None:
    """A connection that is closed with unread bytes is reset, and the answer with it."""
    listener = tcp()
    worker([listener], backend="cheroot").ready()
    for _ in range(20):
        client = connect(listener)
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + b"x" * 200_000)
        assert client.answer()[::2] == (200, b"hello")
        client.close()


def test_werkzeug_is_for_development() -> None:
    assert check(backend="werkzeug", interface="wsgi")["note"] == "for development only"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"options": {"use_reloader": True}},
         ("options.use_reloader", "werkzeug's use_reloader has no place here: use the field `watch`")),
        ({"options": {"use_debugger": True}},
         ("options.use_debugger", "werkzeug's use_debugger has no place here: it is called `debugger` here")),
        ({"options": {"evalex": True}}, ("options.evalex", "it is a part of the debugger")),
        ({"options": {"debugger": True, "evalex": True}, "workers": 2},
         ("options.evalex", "its console must reach the process in which the error was")),
        ({"options": {"threaded": False}, "threads": 2}, ("threads", "werkzeug has none with threaded = false")),
        ({"keepalive": 2.0}, ("keepalive", "werkzeug closes after each answer")),
    ],
)  # fmt: skip
def test_options_of_werkzeug(fields: dict[str, Any], found: tuple[str, str]) -> None:
    assert found in problems(backend="werkzeug", **fields)


def test_werkzeug_by_one_thread(worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = worker([listener], backend="werkzeug", options={"threaded": False})
    process.ready()
    first, second = connect(listener), connect(listener)
    first.send("/gate")
    process.entered()
    second.send("/environ")
    process.let_go()
    assert first.answer()[0] == 200
    assert json.loads(second.answer()[2])["wsgi.multithread"] is False


RAISING = """
def app(environ, start_response):
    secret = "in a frame"
    raise LookupError("no such shelf")
"""


@pytest.mark.parametrize("console", [False, True], ids=["traceback", "console"])
def test_werkzeug_s_debugger(console: bool, worker: Spawn, connect: Connect, tcp: Make, run_dir: Path) -> None:
    (run_dir / "raising.py").write_text(RAISING)
    listener = tcp()
    options = {"debugger": True, **({"evalex": True} if console else {})}
    process = worker([listener], app="raising:app", backend="werkzeug", options=options)
    process.ready()
    client = connect(listener)
    client.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    page = client.stream.read()
    assert page.startswith(b"HTTP/1.1 500 ")
    assert b"no such shelf" in page and b"raising.py" in page
    assert (b"EVALEX = true" in page) is console
    assert ("debugger PIN: " in process.output) is console
    until(lambda: "LookupError: no such shelf" in process.output, what="the traceback on stderr")
    process.stop()
    assert process.wait() == 0
