"""listen = "reuseport": each worker has a socket of its own, and as little is lost as with a common one.

The control is a worker that is killed: what waits at its socket is lost, and it is seen.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import Trapeze
from tests.support.site import Site
from tests.support.wait import until
from trapeze.sockets import open_sockets
from trapeze.spec import SocketSpec
from trapeze.tcpsockets import migrates

APP = """
import os, time

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/work":
        time.sleep(0.05)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    import asyncio
    if scope["type"] != "http":
        return
    if scope["path"] == "/work":
        await asyncio.sleep(0.05)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

BACKENDS = {
    "sync": ("wsgi", 'backend = "gunicorn"\noptions = { worker_class = "sync" }'),
    "gthread": ("wsgi", 'backend = "gunicorn"'),
    "gunicorn-asgi": ("asgi", 'backend = "gunicorn"'),
    "uvicorn": ("asgi", 'backend = "uvicorn"'),
    "waitress": ("wsgi", 'backend = "waitress"'),
    "granian-wsgi": ("wsgi", 'backend = "granian"'),
    "granian-asgi": ("asgi", 'backend = "granian"'),
    "fastpysgi": ("wsgi", 'backend = "fastpysgi"'),
}
WORKERS = 2


class Load:
    """Clients that connect anew for each request."""

    def __init__(self, where: tuple[str, int], path: str, clients: int) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.pids: set[bytes] = set()
        self._where = where
        self._path = path
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                answer = ask(self._where, self._path)
                assert answer.startswith(b"HTTP/1.1 200"), answer
                self.pids.add(answer.rpartition(b"\r\n\r\n")[2])
                self.answered += 1
            except (OSError, AssertionError) as error:
                self.lost.append(repr(error))

    def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()


def ask(where: tuple[str, int], path: str = "/") -> bytes:
    with socket.create_connection(where, timeout=15) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while piece := client.recv(4096):
            data += piece
    return data


def asking(server: Trapeze, count: int) -> list[socket.socket]:
    """Clients who have asked, all at the same time, and have no answer yet."""
    address = where(server)
    clients = [socket.create_connection(address, timeout=15) for _ in range(count)]
    for client in clients:
        client.sendall(b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return clients


def _first(client: socket.socket) -> bytes:
    """What comes first, and nothing if the connection is lost."""
    with client:  # gunicorn's sync worker waits for its close for two seconds before it takes the next one
        try:
            return client.recv(4096)
        except ConnectionError:
            return b""


@pytest.fixture
def load() -> Iterator[Callable[..., Load]]:
    made: list[Load] = []

    def make(server: Trapeze, path: str = "/", clients: int = 4) -> Load:
        made.append(Load(where(server), path, clients))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def config(backend: str, sockets: str = "", web: str = "") -> str:
    interface, fields = BACKENDS[backend]
    return f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        listen = "reuseport"
        {sockets}
        [services.web]
        app = "shop:{interface}"
        workers = {WORKERS}
        {fields}
        {web}
        """


def up(site: Site, backend: str, web: str = "") -> Trapeze:
    site.write("shop.py", APP)
    return site.up(config(backend, web=web)).ready()


def where(server: Trapeze) -> tuple[str, int]:
    host, _, port = server.status()["sockets"][0]["address"].rpartition(":")
    return host, int(port)


def listening(port: int) -> int:
    """Sockets that listen on a port, whoever holds them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_lost_in_reloads(backend: str, site: Site, load: Callable[..., Load]) -> None:
    """Each worker that leaves is the last one out of its own socket: what waits there is answered first."""
    server = up(site, backend)
    port = where(server)[1]
    assert listening(port) == WORKERS
    clients = load(server, "/work", 6)

    for _ in range(3):
        assert server.ctl("reload", "web").code == 0

    until(lambda: listening(port) == WORKERS, what="the old workers to close their sockets")
    clients.stop()
    assert clients.lost == []
    assert len(clients.pids) > WORKERS
    assert server.stop() == 0
    assert listening(port) == 0


def test_control_what_waits_at_the_socket_of_a_killed_worker_is_lost(site: Site) -> None:
    if migrates():
        pytest.skip("here the kernel hands it on: net.ipv4.tcp_migrate_req is 1")
    server = up(site, "sync")
    # All at once: with clients that come back for more, one of the two queues is empty every now and then.
    clients = asking(server, 20)
    os.kill(server.pids()[0], signal.SIGKILL)
    answers = [_first(client) for client in clients]
    assert 1 < answers.count(b"") < 20
    server.ready()
    assert server.stop() == 0


@pytest.mark.parametrize("backend", ["sync", "uvicorn", "fastpysgi"])
def test_queue_is_answered_at_the_end(backend: str, site: Site) -> None:
    """As with a common socket: the service stops, nobody new is let in, and all who wait get their answers."""
    server = up(site, backend)
    clients = asking(server, 20)
    server.terminate()
    answers = [_first(client) for client in clients]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 20
    assert server.wait() == 0


def test_workers_come_and_go(site: Site) -> None:
    server = up(site, "gthread")
    port = where(server)[1]
    server.ctl("scale", "web", "4")
    assert listening(port) == 4
    server.ctl("scale", "web", "1")
    until(lambda: listening(port) == 1, what="three sockets to be closed")
    os.kill(server.pids()[0], signal.SIGKILL)
    until(lambda: server.service()["restarts"] == 1, what="the replacement")
    server.ready()
    assert listening(port) == 1
    assert b" 200 " in ask(where(server))
    server.ctl("stop", "web")
    until(lambda: listening(port) == 0, what="nobody")
    server.ctl("start", "web")
    assert b" 200 " in ask(where(server))
    assert server.stop() == 0


@pytest.mark.parametrize("backend", ["gthread", "granian-asgi"])
def test_upgrade_in_place(backend: str, site: Site, load: Callable[..., Load]) -> None:
    """Workers and their sockets stay; afterwards both are let go as before."""
    server = up(site, backend)
    port, pids = where(server)[1], server.pids()
    clients = load(server)

    assert server.ctl("upgrade").code == 0

    assert server.pids() == pids
    assert listening(port) == WORKERS
    assert server.ctl("reload", "web").code == 0
    until(lambda: listening(port) == WORKERS, what="the old workers to close their sockets")
    clients.stop()
    assert clients.lost == []
    assert server.stop() == 0


FAILING = """if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
    if scope["type"] != "http":"""


def test_a_generation_that_fails_gets_no_connection(site: Site, load: Callable[..., Load]) -> None:
    """It would have lost them: its sockets are not listened on before its workers are ready."""
    server = up(site, "uvicorn", web="restart = { intensity = 2 }")
    clients = load(server)
    server.expect_error(".")
    site.write("shop.py", APP.replace('if scope["type"] != "http":', FAILING))

    assert server.ctl("reload", "web").code == 1

    clients.stop()
    assert clients.lost == []
    assert server.stop() == 0


def test_nobody_else_may_share_the_address(site: Site) -> None:
    """Neither another trapeze, which asks for the same, nor while no worker is there."""
    server = up(site, "sync")
    host, port = where(server)
    other = ("serve", "shop:wsgi", "--app-dir", str(site.directory), "--name", "other", "--bind", f"{host}:{port}")
    done = server.ctl(*other)
    assert done.code == 2
    assert f"cannot listen on {host}:{port}: address already in use (EADDRINUSE), held by " in done.err
    server.ctl("stop", "web")
    until(lambda: listening(port) == 0, what="nobody")
    for options in ((), (socket.SO_REUSEADDR,)):
        with socket.socket() as sock:
            for option in options:
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use"):
                sock.bind((host, port))
    site.write(
        "second.toml", config("sync").replace("127.0.0.1:0", f"{host}:{port}").replace("\n", '\nname = "b"\n', 1)
    )
    done = server.ctl("up", "-c", str(site.directory / "second.toml"))
    assert done.code == 2
    assert "address already in use" in done.err
    assert server.stop() == 0


def test_it_cannot_change_under_the_workers(site: Site) -> None:
    server = up(site, "sync")
    host, port = where(server)
    text = config("sync").replace("127.0.0.1:0", f"{host}:{port}")
    site.write("trapeze.toml", text)
    assert server.ctl("reload").code == 0, "the same address, written with its port"
    site.write("trapeze.toml", text.replace('listen = "reuseport"', ""))
    done = server.ctl("reload")
    assert done.code == 2
    assert 'listen = "reuseport" cannot come or go while workers accept there' in done.err
    assert b" 200 " in ask((host, port))
    assert server.stop() == 0


SERVER = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(True)
while True:
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n" + str(os.getpid()).encode())
    connection.close()
"""


def test_a_command_gets_one_that_listens(site: Site) -> None:
    site.write("plain.py", SERVER)
    server = site.up(
        f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        listen = "reuseport"
        [services.web]
        command = "{sys.executable} {site.directory}/plain.py {{fd:web}}"
        socket = "web"
        workers = 2
        """
    ).ready()
    assert listening(where(server)[1]) == 2
    until(lambda: len({ask(where(server))[-8:] for _ in range(20)}) == 2, what="both to answer")
    assert server.stop() == 0


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs two users")
def test_a_worker_of_another_user_may_listen() -> None:
    """The kernel shares an address among sockets of one user only: they are bound before the worker is another."""
    (reserved,) = open_sockets("web", SocketSpec(bind="127.0.0.1:0", listen="reuseport"), systemd={})
    own = reserved.beside(listening=False)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        own.sock.listen(5)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    socket.create_connection(own.sock.getsockname()).close()
    own.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(reserved.sock.getsockname())
    reserved.close()


def test_check_says_what_is_lost(site: Site) -> None:
    site.write("shop.py", APP)
    site.write("trapeze.toml", config("sync"))
    from tests.support.server import run

    done = run("check", "-c", str(site.file), cwd=site.directory)
    assert done.code == 0
    assert 'note: sockets.web: listen = "reuseport": no shared_queue: each worker has a queue of its own' in done.err
    assert migrates() or "net.ipv4.tcp_migrate_req=1" in done.err
    (note,) = run("check", "-c", str(site.file), "--json", cwd=site.directory).json["notes"]
    assert note["path"] == "sockets.web"
    assert note["reason"].startswith('listen = "reuseport": ')
