"""listen = "per-worker": each slot has an address of its own, which outlives its workers."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.server import Trapeze
from tests.support.site import Site
from tests.support.wait import until

APP = """
import os, time

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/work":
        time.sleep(0.05)
    body = os.environ["TRAPEZE_INDEX"].encode() + b" VERSION"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body = os.environ["TRAPEZE_INDEX"].encode() + b" VERSION"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

Where = tuple[str, int] | str


@pytest.fixture
def paths(site: Site) -> list[str]:
    return [str(site.directory / f"web.{slot}.sock") for slot in range(4)]


def up(
    site: Site, *, bind: str = "unix:web.sock", workers: int = 3, backend: str = "gunicorn", more: str = ""
) -> Trapeze:
    site.write("shop.py", APP)
    interface = "asgi" if backend == "uvicorn" else "wsgi"
    return site.up(config(bind, workers, backend, interface, more)).ready()


def config(bind: str, workers: int, backend: str = "gunicorn", interface: str = "wsgi", more: str = "") -> str:
    return f"""
        [sockets.web]
        bind = "{bind}"
        listen = "per-worker"
        [services.web]
        app = "shop:{interface}"
        backend = "{backend}"
        workers = {workers}
        {more}
        """


def connect(where: Where) -> socket.socket:
    if not isinstance(where, str):
        return socket.create_connection(where, timeout=15)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(15)
    try:
        client.connect(where)
    except BaseException:
        client.close()
        raise
    return client


def ask(where: Where, path: str = "/") -> str:
    """The body: index of the worker, and version."""
    with connect(where) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while piece := client.recv(4096):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data
    return body.decode()


class Loads:
    """One client for each address, new connections all the time."""

    def __init__(self, wheres: list[str]) -> None:
        self.lost: list[str] = []
        self.answers = 0
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(where,)) for where in wheres]
        for thread in self._threads:
            thread.start()

    def _run(self, where: str) -> None:
        while not self._enough.is_set():
            try:
                ask(where)
                self.answers += 1
            except (OSError, AssertionError) as error:
                self.lost.append(f"{where}: {error!r}")

    def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def loads() -> Iterator[list[Loads]]:
    made: list[Loads] = []
    yield made
    for each in made:
        each.stop()


@pytest.mark.parametrize("backend", ["gunicorn", "uvicorn", "granian", "waitress"])
def test_each_worker_answers_at_its_own_address(site: Site, paths: list[str], backend: str) -> None:
    server = up(site, backend=backend)
    assert [ask(path) for path in paths[:3] for _ in range(3)] == [f"{n} VERSION" for n in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    listed = [(each["name"], each["slot"], each["address"]) for each in server.status()["sockets"]]
    assert listed == [("web", slot, f"unix:{paths[slot]}") for slot in range(3)]
    assert "web[2] " in server.ctl("status").out
    assert server.stop() == 0
    assert not any(Path(path).exists() for path in paths)


def test_ports_count_on(site: Site) -> None:
    server = up(site, bind="127.0.0.1:0")
    where = [each["address"].rpartition(":") for each in server.status()["sockets"]]
    assert [ask((host, int(port))) for host, _, port in where] == [f"{slot} VERSION" for slot in range(3)]
    assert server.stop() == 0


def test_what_waits_for_a_dead_worker_waits_for_its_replacement(site: Site, paths: list[str]) -> None:
    server = up(site)
    gate = next(p["pid"] for p in server.service()["processes"] if p["index"] == 1)
    os.kill(gate, signal.SIGSTOP)
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(ask, paths[1]) for _ in range(5)]
        until(lambda: (server.status()["sockets"][1]["waiting"] or 0) >= 5, what="five to wait")
        os.kill(gate, signal.SIGKILL)
        assert [each.result() for each in waiting] == ["1 VERSION"] * 5
    assert server.stop() == 0


def test_nothing_is_lost_in_reloads(site: Site, paths: list[str], loads: list[Loads]) -> None:
    server = up(site)
    loads.append(Loads(paths[:3]))
    for version in "one", "two":
        site.write("shop.py", APP.replace("VERSION", version))
        assert server.ctl("reload").code == 0
        assert [ask(path) for path in paths[:3]] == [f"{slot} {version}" for slot in range(3)]
    assert server.ctl("restart", "web").code == 0
    loads[0].stop()
    assert loads[0].lost == []
    assert loads[0].answers > 20
    assert server.stop() == 0


def test_a_slot_that_is_scaled_away_is_drained_first(site: Site, paths: list[str]) -> None:
    server = up(site, more='options = { worker_class = "sync" }')
    clients = [connect(paths[2]) for _ in range(8)]
    for client in clients:
        client.sendall(b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answers = []
    with ThreadPoolExecutor(1) as pool:
        scaled = pool.submit(server.ctl, "scale", "web", "2")
        for client in clients:
            with client:  # gunicorn's sync worker waits for its close before it takes the next one
                answers.append(client.recv(4096)[:12])
        assert scaled.result().code == 0
    assert answers == [b"HTTP/1.1 200"] * 8
    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        ask(paths[2])
    assert [ask(path) for path in paths[:2]] == ["0 VERSION", "1 VERSION"]
    assert [each["closed"] for each in server.status()["sockets"]] == [False, False, True]

    assert server.ctl("reload").code == 0
    assert not Path(paths[2]).exists(), "a reload does not bring it back"

    assert server.ctl("scale", "web", "3").code == 0
    assert ask(paths[2]) == "2 VERSION"
    assert server.stop() == 0


def test_more_workers_than_slots_share_them(site: Site, paths: list[str]) -> None:
    server = up(site, workers=2)
    assert server.ctl("scale", "web", "4").code == 0
    assert not Path(paths[2]).exists(), "nobody in front would know it"
    first = next(p["pid"] for p in server.service()["processes"] if p["index"] == 0)
    os.kill(first, signal.SIGSTOP)
    try:
        assert ask(paths[0]) == "2 VERSION"
    finally:
        os.kill(first, signal.SIGCONT)
    assert server.stop() == 0


def test_workers_of_the_file_change(site: Site, paths: list[str], loads: list[Loads]) -> None:
    server = up(site, workers=2)
    loads.append(Loads(paths[:2]))
    site.write("trapeze.toml", config("unix:web.sock", 4))
    assert server.ctl("reload").code == 0
    assert [ask(path) for path in paths] == [f"{slot} VERSION" for slot in range(4)]
    site.write("trapeze.toml", config("unix:web.sock", 2))
    assert server.ctl("reload").code == 0
    until(lambda: not Path(paths[2]).exists() and not Path(paths[3]).exists(), what="the last two to be closed")
    loads[0].stop()
    assert loads[0].lost == []
    assert server.stop() == 0


def test_from_shared_and_back(site: Site, paths: list[str]) -> None:
    server = up(site)
    shared = str(site.directory / "web.sock")
    text = config("unix:web.sock", 3)
    site.write("trapeze.toml", text.replace("per-worker", "shared"))
    assert server.ctl("reload").code == 0
    assert ask(shared).endswith(" VERSION")
    until(lambda: not Path(paths[0]).exists(), what="the others to go")
    site.write("trapeze.toml", text)
    assert server.ctl("reload").code == 0
    assert [ask(path) for path in paths[:3]] == [f"{slot} VERSION" for slot in range(3)]
    until(lambda: not Path(shared).exists(), what="the common one to go")
    assert server.stop() == 0


def test_upgrade_in_place(site: Site, paths: list[str], loads: list[Loads]) -> None:
    server = up(site)
    assert server.ctl("scale", "web", "2").code == 0
    loads.append(Loads(paths[:2]))
    assert server.ctl("upgrade").code == 0
    assert [each["slot"] for each in server.status()["sockets"]] == [0, 1, 2]
    assert not Path(paths[2]).exists()
    assert server.ctl("scale", "web", "3").code == 0
    assert ask(paths[2]) == "2 VERSION"
    loads[0].stop()
    assert loads[0].lost == []
    assert server.stop() == 0


def test_command_gets_the_socket_of_its_slot(site: Site, paths: list[str]) -> None:
    site.write(
        "answer.py",
        """
import os, socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
server.setblocking(True)
while True:
    client, _ = server.accept()
    client.recv(4096)
    body = sys.argv[2].encode() + b" VERSION"
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body) + body)
    client.close()
""",
    )
    server = site.up("""
        [sockets.web]
        bind = "unix:web.sock"
        listen = "per-worker"
        [services.web]
        command = "python3 answer.py {fd:web} {index}"
        socket = "web"
        workers = 2
        """).ready()
    assert [ask(path) for path in paths[:2]] == ["0 VERSION", "1 VERSION"]
    assert server.stop() == 0
