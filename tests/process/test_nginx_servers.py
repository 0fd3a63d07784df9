"""Each in-process backend behind a real nginx that was told what `trapeze nginx` says: every kind of request, a
reload of both at the same moment, and an nginx that is killed, with orders that the app counts.

One app and one nginx for all that is asked of a backend: to start them takes longer than most of the questions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import socket
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.support.apps.front import BIG
from tests.support.fronted import Front, Make, events, leave, orders
from tests.support.site import Site
from tests.support.wait import until
from tests.support.workerkit import BACKENDS, Case

SAME = {"hypercorn-asyncio", "aiohttp-asyncio", "uwsgi-program"}
"""Other loops, or another program, below a server that is here already."""
SOCKETS = {"geventwebsocket", "gevent-websocket"}
"""WSGI servers with WebSockets."""
KEPT = "keepalive = 8"
"""In [nginx]: an order on a connection that nginx has kept is what it could be tempted to repeat."""
SLOW = 4
"""Clients that are slow at one time: more than there are workers."""


def talks(case: Case) -> bool:
    """Has the server WebSockets?"""
    return case.interface != "wsgi" or case.name.removeprefix("chaussette-") in SOCKETS


def dial(front: Front) -> socket.socket:
    """A connection to nginx."""
    host, port = front.listener.address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(method: str, path: str, *more: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: shop.example", *more, "", ""]).encode()


def told(sock: socket.socket) -> tuple[bytes, bytes]:
    """Read one answer with a Content-Length: its head and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536) or pytest.fail(f"closed after {data!r}")
    top, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in top.split(b"\r\n")[1:])
    size = int(fields.get(b"content-length", b"0"))
    while len(body) < size:
        body += sock.recv(65536) or pytest.fail(f"closed after {len(body)} of {size} bytes")
    return top, body


def bodies(front: Front) -> None:
    """GET and HEAD on one kept connection; 50 MB, pieces, a body that waits to be asked for."""
    with front.listener.client() as client:
        assert client.get("/").json()["connection"] == "", "the connection to the app is kept"
        answer = client.head("/")
        assert (answer.status_code, answer.content) == (200, b"")
        big = b"0123456789abcdef" * (50 * 2**16)
        answer = client.post("/big/echo", content=big)
        assert answer.json() == {"size": 50 * 2**20, "sum": hashlib.sha256(big).hexdigest()}
        pieces = [b"piece %d\n" % number for number in range(2000)]
        assert client.post("/pieces/echo", content=iter(pieces)).json()["size"] == len(b"".join(pieces))
    with dial(front) as sock:
        sock.sendall(head("POST", "/asked/echo", "Content-Length: 5", "Expect: 100-continue"))
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"later")
        assert json.loads(told(sock)[1])["size"] == 5
        sock.sendall(head("GET", "/"))
        assert told(sock)[0].startswith(b"HTTP/1.1 200"), "the same connection once more"
    assert [front.posts(f"/{name}/echo") for name in ("big", "pieces", "asked")] == [1, 1, 1]


def slow_clients(front: Front) -> None:
    """Those who send slowly, and those who do not read, hold no worker: there are more of them than workers."""
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(dial(front)) for _ in range(SLOW)]
        readers = [stack.enter_context(dial(front)) for _ in range(SLOW)]
        for sock in senders:
            sock.sendall(head("POST", "/slow/echo", "Content-Length: 6") + b"one")
        for sock in readers:
            sock.sendall(head("GET", "/big"))
        assert front.listener.get("/").status_code == 200
        for sock in senders:
            sock.sendall(b"two")
        assert [json.loads(told(sock)[1])["size"] for sock in senders] == [6] * SLOW
        assert [len(told(sock)[1]) for sock in readers] == [BIG] * SLOW


def clients_that_go_away(front: Front) -> None:
    """In the middle of its body: the app never hears of it. In the middle of the answer: the app is told."""
    front.trapeze.expect_error(r"Traceback")  # how eventlet says that a client has gone
    with dial(front) as sock:
        sock.sendall(head("POST", "/half", "Content-Length: 10") + b"half")
    leave(front)
    assert front.posts("/half") == 0


def websocket(front: Front) -> None:
    """With plain requests beside it, by the same location."""
    with connect(f"ws://{front.listener.address}/ws", open_timeout=20) as talk:
        for word in ("one", "two"):
            talk.send(word)
            assert talk.recv(20) == word
        assert front.listener.get("/").status_code == 200


def a_reload_of_both(front: Front) -> None:
    """trapeze rolls and nginx takes up new workers at the same time."""
    with orders(front, kind="reload") as answered:
        until(lambda: len(answered) > 15, what="orders")
        front.nginx.signal(signal.SIGHUP)
        assert front.trapeze.ctl("reload", "-q").code == 0
        seen = len(answered)
        until(lambda: len(answered) > seen + 15, what="orders after it")
    assert front.trapeze.service()["generation"] == 2
    assert [each for each in answered if each[1] not in (0, 200)] == [], "no 502"
    unanswered = {path for path, status in answered if status == 0}
    assert unanswered & counted(front, answered) == set(), "an order that was taken is answered"


def a_killed_nginx(front: Front) -> None:
    """Who was connected to it is cut off. The app takes no order twice, and goes on when there is nginx again."""
    with orders(front, kind="killed") as answered:
        until(lambda: len(answered) > 15, what="orders")
        front.nginx.kill()
        front.nginx.again()
        seen = good(answered)
        until(lambda: good(answered) > seen + 15, what="orders after it")
    assert {status for _, status in answered} <= {0, 200, 999}, "an answer, or none; no 502"
    counted(front, answered)


def good(answered: list[tuple[str, int]]) -> int:
    return sum(status == 200 for _, status in answered)


def counted(front: Front, answered: list[tuple[str, int]]) -> set[str]:
    """Each order was taken once at most, and each that was answered was taken. Returns those that were."""
    taken = [line.split()[0] for line in front.counted.read_text().splitlines()]
    orders_taken = [path for path in taken if path.startswith(("/reload/", "/killed/"))]
    assert len(orders_taken) == len(set(orders_taken)), "an order was taken twice"
    assert {path for path, status in answered if status == 200} <= set(taken)
    return set(taken)


def a_worker_that_dies(front: Front) -> None:
    """In the middle of an order, on a connection that nginx has kept: the client hears of it, nobody orders again."""
    front.trapeze.expect_error(r"last output of web\[")  # where it has printed something before
    with front.listener.client() as client:
        assert client.post("/last").status_code == 200
        assert client.post("/last/die").status_code == 502
    assert front.posts("/last/die") == 1
    until(lambda: len(front.trapeze.pids()) == 2, what="a new worker")
    until(lambda: front.listener.get("/").status_code == 200, what="an answer")


def queue_times(front: Front) -> None:
    """nginx has said of each request when it had it. Workers that have left, or were killed, are counted in."""
    found = front.trapeze.service()["queue_time"]
    posts = len(front.counted.read_text().splitlines())
    assert sum(found["counts"]) >= posts and 0 < found["seconds"] < 3600
    printed = front.trapeze.ctl("metrics").out
    assert printed.endswith("\n# EOF\n")
    counted_there = re.search(r'^trapeze_queue_time_seconds_count{service="web"} (\d+)$', printed, re.MULTILINE)
    assert counted_there and int(counted_there[1]) == sum(found["counts"])
    assert re.search(r"^trapeze_listen_queue_limit{.*web.sock.*} [1-9]", printed, re.MULTILINE)


@pytest.fixture(params=[case for case in BACKENDS if case.name not in SAME], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def front(site: Site, nginx: Make, case: Case) -> Iterator[Front]:
    options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in case.options.items())
    made = Front(site, nginx, case.backend, f"options = {{ {options} }}", case.interface, KEPT)
    yield made
    assert made.trapeze.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_behind_nginx(front: Front, case: Case) -> None:
    bodies(front)
    slow_clients(front)
    if case.backend != "fastpysgi":  # it sends no piece before it has many: `prompt_pieces` of `trapeze backends`
        events(front)
    clients_that_go_away(front)
    if talks(case):
        websocket(front)
    a_reload_of_both(front)
    a_killed_nginx(front)
    a_worker_that_dies(front)
    queue_times(front)
