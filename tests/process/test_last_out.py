"""Last out: a service that stops answers what waits in its listen queue, and lets nobody else come up to it.

The control of it is a socket that is lent to us (fd://): its doors are not ours to close, and what waits is lost when
nobody else holds it.
"""

from __future__ import annotations

import re
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.server import Listener, Trapeze
from tests.support.wait import until

Start = Callable[..., Trapeze]
Make = Callable[..., Listener]

REQUESTS = 20
WORK = 0.2
"""Seconds of one request: ten for each of two workers that serve one at a time."""

APP = f"""
import time

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/work":
        time.sleep({WORK})
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

async def asgi(scope, receive, send):
    import asyncio
    if scope["type"] != "http":
        return
    if scope["path"] == "/work":
        await asyncio.sleep({WORK})
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}})
    await send({{"type": "http.response.body", "body": b"hello"}})
"""

BACKENDS = {
    "sync": ("wsgi", "gunicorn", 'options = { worker_class = "sync" }'),
    "gthread": ("wsgi", "gunicorn", "threads = 1"),
    "gevent": ("wsgi", "gunicorn", 'options = { worker_class = "gevent" }'),
    "asgi": ("asgi", "gunicorn", ""),
    "uvicorn": ("asgi", "uvicorn", ""),
    "granian": ("wsgi", "granian", "threads = 1"),
    "waitress": ("wsgi", "chaussette", 'options = { backend = "waitress" }\nthreads = 1'),
    "wsgiref": ("wsgi", "chaussette", 'options = { backend = "wsgiref" }'),
}


class Web:
    """A running site with one web service, and clients for it."""

    def __init__(self, directory: Path, trapeze: Start, bind: str, backend: str = "sync", more: str = "") -> None:
        self.directory = directory
        self.trapeze = trapeze
        interface, name, options = BACKENDS[backend]
        (directory / "queueapp.py").write_text(APP)
        self.web = f'[services.web]\napp = "queueapp:{interface}"\nworkers = 2\nsocket = "web"\nbackend = "{name}"\n'
        self.web += f"{options}\n{more}\n"
        self.configure(f'[sockets.web]\nbind = "{bind}"\n')
        self.clients: list[socket.socket] = []
        self.readers = ThreadPoolExecutor(3 * REQUESTS)

    def configure(self, sockets: str, more: str = "") -> None:
        (self.directory / "trapeze.toml").write_text(f"{sockets}\n{self.web}\n{more}")

    def start(self, **options: object) -> Trapeze:
        self.server = self.trapeze("up", "-c", str(self.directory / "trapeze.toml"), cwd=self.directory, **options)
        return self.server.ready()

    @property
    def address(self) -> str:
        return str(self.server.status()["sockets"][0]["address"])

    def connect(self, address: str) -> socket.socket:
        if address.startswith("unix:"):
            client = socket.socket(socket.AF_UNIX)
            where: object = address.removeprefix("unix:")
        else:
            host, port = address.rsplit(":", 1)
            client = socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET)
            where = (host.strip("[]"), int(port))
        self.clients.append(client)
        client.settimeout(20)
        client.connect(where)  # type: ignore[arg-type]
        return client

    def ask(self, address: str, path: str = "/work") -> Future[bool]:
        """Send a request at once; the result says whether the answer came whole.

        It is read, and the connection closed, when it comes: gunicorn waits up to 2 s for clients that do not close.
        """
        client = self.connect(address)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return self.readers.submit(is_answered, client)

    def close(self) -> None:
        """Close all that is still open."""
        for client in self.clients:
            client.close()
        self.readers.shutdown()

    def is_closed(self, address: str) -> bool:
        """Does nobody let a new client in?"""
        try:
            probe = self.connect_soon(address)
        except (TimeoutError, ConnectionRefusedError, FileNotFoundError):
            return True
        probe.close()
        return False

    def connect_soon(self, address: str) -> socket.socket:
        if address.startswith("unix:"):
            return self.connect(address)
        host, port = address.rsplit(":", 1)
        return socket.create_connection((host.strip("[]"), int(port)), timeout=0.1)


def answered(asked: list[Future[bool]]) -> int:
    """How many got a whole answer."""
    return sum(each.result() for each in asked)


def is_answered(client: socket.socket) -> bool:
    data = b""
    try:
        while piece := client.recv(4096):
            data += piece
    except OSError:
        return False
    finally:
        client.close()
    return data.startswith(b"HTTP/1.") and b" 200 " in data[:20] and data.endswith(b"\r\n\r\nhello")


@pytest.fixture
def make_web(run_dir: Path, trapeze: Start) -> Iterator[Callable[..., Web]]:
    made: list[Web] = []

    def make(bind: str, *args: str) -> Web:
        made.append(Web(run_dir, trapeze, bind, *args))
        return made[-1]

    yield make
    for web in made:
        web.close()


def address_of(kind: str, directory: Path) -> str:
    return {"tcp": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": f"unix:{directory / 'web.sock'}"}[kind]


CASES = [*((kind, "sync") for kind in ("tcp", "tcp6", "unix")), *(("tcp", each) for each in BACKENDS if each != "sync")]


@pytest.mark.parametrize(("kind", "backend"), CASES)
def test_queue_is_answered(kind: str, backend: str, make_web: Callable[..., Web], run_dir: Path) -> None:
    web = make_web(address_of(kind, run_dir), backend)
    server = web.start()
    address = web.address
    clients = [web.ask(address) for _ in range(REQUESTS)]
    server.terminate()
    assert answered(clients) == REQUESTS, server.output
    assert server.wait() == 0
    assert web.is_closed(address)


def test_control_what_waits_at_a_lent_socket_is_lost(make_web: Callable[..., Web], tcp: Make) -> None:
    listener = tcp()
    web = make_web(listener.bind)
    server = web.start(listeners=[listener])
    clients = [web.ask(listener.address) for _ in range(REQUESTS)]
    server.terminate()
    assert answered(clients) <= REQUESTS // 2
    assert server.wait() == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_nobody_new_is_let_in(kind: str, make_web: Callable[..., Web], run_dir: Path) -> None:
    web = make_web(address_of(kind, run_dir))
    server = web.start()
    address = web.address
    clients = [web.ask(address) for _ in range(8)]
    server.terminate()
    until(lambda: web.is_closed(address), what="the doors to close")
    assert server.process.poll() is None, "it is too late to look"
    assert answered(clients) == len(clients)
    assert server.wait() == 0
    assert not list(run_dir.glob("*.sock"))
    assert not list(run_dir.glob(".*.closed"))


def test_second_signal_waits_for_nobody(make_web: Callable[..., Web]) -> None:
    web = make_web("127.0.0.1:0")
    server = web.start()
    address = web.address
    clients = [web.ask(address) for _ in range(REQUESTS)]
    server.signal(signal.SIGINT)
    until(lambda: web.is_closed(address), what="the doors to close")
    server.ctl("shutdown", "--fast")
    before = time.monotonic()
    server.wait()
    assert time.monotonic() - before < REQUESTS / 2 * WORK
    assert answered(clients) < REQUESTS


def test_stop_takes_stop_timeout_at_most(make_web: Callable[..., Web]) -> None:
    web = make_web("127.0.0.1:0", "sync", "stop_timeout = 1.0")
    server = web.start()
    address = web.address  # asked once: all are to wait before the first is answered
    clients = [web.ask(address) for _ in range(3 * REQUESTS)]
    before = time.monotonic()
    server.terminate()
    server.wait()
    took = time.monotonic() - before
    assert 0 < answered(clients) < len(clients)
    assert took < 1.0 + 1.0, "one second is for a busy machine"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("how", ["stop", "scale"])
def test_stopped_service_opens_its_doors_when_it_is_started(
    how: str, kind: str, make_web: Callable[..., Web], run_dir: Path
) -> None:
    web = make_web(address_of(kind, run_dir))
    server = web.start()
    address = web.address
    path = run_dir / "web.sock"
    mode = stat.S_IMODE(path.stat().st_mode) if kind == "unix" else 0
    clients = [web.ask(address) for _ in range(6)]
    assert server.ctl(*(["stop", "web"] if how == "stop" else ["scale", "web", "0"])).code == 0
    assert answered(clients) == len(clients)
    assert web.is_closed(address)
    assert server.ctl(*(["start", "web"] if how == "stop" else ["scale", "web", "1"])).code == 0
    assert web.ask(address, "/").result()
    assert kind == "tcp" or stat.S_IMODE(path.stat().st_mode) == mode


def test_start_during_a_stop(make_web: Callable[..., Web]) -> None:
    web = make_web("127.0.0.1:0")
    server = web.start()
    address = web.address
    clients = [web.ask(address) for _ in range(10)]
    server.request("POST", "/services/web/stop")
    until(lambda: web.is_closed(address), what="the doors to close")
    assert server.ctl("start", "web").code == 0
    clients += [web.ask(address) for _ in range(4)]
    assert answered(clients) == 14


def test_old_address_is_emptied_when_a_socket_moves(make_web: Callable[..., Web], run_dir: Path) -> None:
    web = make_web(f"unix:{run_dir / 'old.sock'}")
    server = web.start()
    clients = [web.ask(f"unix:{run_dir / 'old.sock'}") for _ in range(12)]
    web.configure(f'[sockets.web]\nbind = "unix:{run_dir / "new.sock"}"\n')
    done = server.ctl("reload")
    assert done.code == 0, done
    assert web.ask(f"unix:{run_dir / 'new.sock'}", "/").result()
    assert answered(clients) == len(clients)
    until(lambda: not list(run_dir.glob("*old.sock*")), what="the old socket file to go")


def test_old_socket_is_emptied_when_its_mode_changes(make_web: Callable[..., Web], run_dir: Path) -> None:
    path = run_dir / "web.sock"
    web = make_web(f"unix:{path}")
    server = web.start()
    clients = [web.ask(f"unix:{path}") for _ in range(12)]
    web.configure(f'[sockets.web]\nbind = "unix:{path}"\nmode = "0600"\n')
    assert server.ctl("reload").code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert web.ask(f"unix:{path}", "/").result()
    assert answered(clients) == len(clients)


def test_port_that_stays_is_not_closed_when_its_section_changes(make_web: Callable[..., Web]) -> None:
    """The same kernel socket under two descriptors: the old generation is not the last one there."""
    web = make_web("127.0.0.1:0")
    server = web.start()
    address = web.address
    web.configure(f'[sockets.web]\nbind = "{address}"\nbacklog = 64\n')
    clients = [web.ask(address) for _ in range(6)]
    assert server.ctl("reload").code == 0
    clients += [web.ask(address) for _ in range(6)]
    assert answered(clients) == 12


def test_what_the_web_needs_stays_until_the_queue_is_answered(make_web: Callable[..., Web], run_dir: Path) -> None:
    web = make_web("127.0.0.1:0", "sync", 'after = ["side"]')
    (run_dir / "side.py").write_text(
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "print('side leaves', flush=True)\n"
    )
    web.configure('[sockets.web]\nbind = "127.0.0.1:0"\n', '[services.side]\ncommand = "python3 side.py"\n')
    server = web.start()
    clients = [web.ask(web.address) for _ in range(REQUESTS)]
    server.terminate()
    assert answered(clients) == REQUESTS
    assert server.wait() == 0
    ends = re.findall(r"(\w+)\[\d\] pid \d+ exited", server.stderr)
    assert ends == ["web", "web", "side"]
