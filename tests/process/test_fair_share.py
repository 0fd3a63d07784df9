"""Workers share what connects, whoever of them wakes first; and nobody waits for one that does not come."""

from __future__ import annotations

import os
import signal
import socket
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.server import Trapeze
from tests.support.site import Site
from tests.support.wait import until

APP = """
import asyncio, os

inside, all_in = 0, asyncio.Event()

def wsgi(environ, start_response):
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    global inside
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/together":
        inside += 1
        if inside == 100:
            all_in.set()
        await all_in.wait()
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

BACKENDS = {
    "gunicorn-gthread": ("wsgi", 'backend = "gunicorn"'),
    "gunicorn-gevent": ("wsgi", 'backend = "gunicorn"\noptions = { worker_class = "gevent" }'),
    "gunicorn-asgi": ("asgi", 'backend = "gunicorn"'),
    "uvicorn": ("asgi", 'backend = "uvicorn"'),
    "uvicorn-asyncio": ("asgi", 'backend = "uvicorn"\noptions = { loop = "asyncio" }'),
    "hypercorn-asgi": ("asgi", 'backend = "hypercorn"'),
    "hypercorn-wsgi": ("wsgi", 'backend = "hypercorn"'),
    "waitress": ("wsgi", 'backend = "waitress"'),
    "gevent": ("wsgi", 'backend = "gevent"'),
}
CONNECTIONS = 64


def started(site: Site, interface: str, lines: str, workers: int = 4) -> tuple[Trapeze, str]:
    """A service on a Unix socket, and its path."""
    site.write("shared.py", APP)
    server = site.up(
        f'[sockets.web]\nbind = "unix:web.sock"\n'
        f'[services.web]\napp = "shared:{interface}"\nworkers = {workers}\nkeepalive = 60\n{lines}\n'
    ).ready()
    return server, str(site.directory / "web.sock")


@contextmanager
def opened(path: str, number: int) -> Iterator[list[socket.socket]]:
    """So many connections, all at once."""
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(20)
            sock.connect(path)
            found.append(sock)
        yield found


def answered(connections: list[socket.socket], target: str = "/") -> Counter[int]:
    """Ask once on each, all at once; how many were answered by whom."""
    for sock in connections:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    found: Counter[int] = Counter()
    for sock in connections:
        data = b""
        while b"\r\n\r\n" not in data or not data.rpartition(b"\r\n\r\n")[2]:
            piece = sock.recv(65536)
            assert piece, f"closed after {data!r}"
            data += piece
        found[int(data.rpartition(b"\r\n\r\n")[2])] += 1
    return found


@pytest.mark.parametrize("name", BACKENDS)
def test_connections_that_are_opened_at_once_are_shared(site: Site, name: str) -> None:
    """Of several openings in a row the median: a machine that has no time for a worker may spoil one."""
    server, path = started(site, *BACKENDS[name])
    shares: list[float] = []

    def even() -> bool:
        with opened(path, CONNECTIONS) as connections:
            shares.append(max(answered(connections).values()) * 4 / CONNECTIONS)
        return len(shares) >= 5 and statistics.median(shares[-5:]) <= 1.3

    until(even, what=f"an even share, not {shares}")
    assert server.stop() == 0


def test_a_frozen_worker_keeps_nobody_from_being_served(site: Site) -> None:
    server, path = started(site, "asgi", 'backend = "uvicorn"\nheartbeat_timeout = 0')
    frozen = server.pids()[0]
    with opened(path, CONNECTIONS) as connections:
        assert len(answered(connections)) > 1
    os.kill(frozen, signal.SIGSTOP)
    try:
        with opened(path, CONNECTIONS) as connections:
            found = answered(connections)
    finally:
        os.kill(frozen, signal.SIGCONT)

    assert sum(found.values()) == CONNECTIONS and frozen not in found
    assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_requests_at_once_as_there_are(site: Site, workers: int) -> None:
    """100 that wait for each other in one worker: the other one is frozen. None is kept out."""
    server, path = started(site, "asgi", 'backend = "uvicorn"\nheartbeat_timeout = 0', workers)
    others = server.pids()[1:]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        with opened(path, 100) as connections:
            found = answered(connections, "/together")
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)

    assert list(found.values()) == [100]
    assert server.stop() == 0


def test_listeners_are_back_when_a_worker_leaves(site: Site) -> None:
    """While it lets others go first its descriptor is another socket; what it closes at the end is the listener."""
    server, path = started(site, "asgi", 'backend = "uvicorn"\ndrain_grace = 0.2')
    for _ in range(3):
        with opened(path, CONNECTIONS) as connections:
            assert sum(answered(connections).values()) == CONNECTIONS
            assert server.ctl("reload", "-q").code == 0
    with opened(path, CONNECTIONS) as connections:
        assert len(answered(connections)) > 1
    assert server.stop() == 0
