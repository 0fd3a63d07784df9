"""An app behind a real nginx that was told what `trapeze nginx` says, and clients that send orders through it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tests.support.nginx import Nginx
from tests.support.server import Listener, Trapeze
from tests.support.site import APPS, Gate, Site, Wire

__all__ = ["Front", "Make", "ask", "orders"]

Make = Callable[..., Nginx]


class Front:
    """An app behind an nginx that was told what `trapeze nginx` says."""

    def __init__(
        self,
        site: Site,
        nginx: Make,
        backend: str,
        options: str = "",
        interface: str = "",
        section: str = "",
        change: Callable[[str], str] = lambda text: text,
    ) -> None:
        interface = interface or ("asgi" if backend == "uvicorn" else "wsgi")
        self._change = change
        self.wire: Wire = site.wire()
        self.gate: Gate = site.gate()
        self.counted = site.directory / "count"
        self.counted.touch()
        self.trapeze: Trapeze = site.up(f"""
            [nginx]
            sse = ["/events", "/endless"]
            max_body = "64M"
            {section}
            [sockets.web]
            bind = "unix:web.sock"
            [services.web]
            app = "front:{interface}"
            app_dir = "{APPS}"
            backend = "{backend}"
            workers = 2
            {options}
            env = {{ TEST_COUNT = "{self.counted}", TEST_GATE = "{self.gate}", TEST_WIRE = "{self.wire}" }}
            """)
        self.trapeze.ready()
        self.nginx: Nginx = nginx(site=self._text(site))
        self.listener: Listener = self.nginx.listener

    def _text(self, site: Site) -> Callable[[str], str]:
        def made(address: str) -> str:
            printed = self.trapeze.ctl("nginx", "-c", str(site.file), "--listen", address, "--test")
            assert printed.code == 0, printed.err
            return self._change(printed.out)

        return made

    def connections(self) -> int:
        """Unix sockets that nginx's worker has open: those to the app, and one to its master."""
        worker = Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children").read_text().split()[-1]
        links = set()
        for path in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it is closing it right now
                links.add(os.readlink(path))
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        return len(links & {f"socket:[{row[6]}]" for row in rows})

    def posts(self, path: str) -> int:
        """So many times the app has seen a POST of this path."""
        return sum(line.split()[0] == path for line in self.counted.read_text().splitlines())


def ask(front: Front, text: bytes) -> bytes:
    """Send bytes as they are; all that comes back."""
    host, port = front.listener.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(text)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def events(front: Front) -> None:
    """The second event is only sent when the client has had the first."""
    with front.listener.client() as client, client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line) == "data: 1"
        front.gate.open()
        assert next(line for line in lines if line) == "data: 2"


def leave(front: Front) -> None:
    """A client goes away in the middle of an answer: the app is told, so that it does not go on for nobody."""
    with front.listener.client() as client, client.stream("GET", "/endless") as answer:
        assert next(answer.iter_lines()) == "data: more"
    assert front.wire.line() == "gone"
    assert front.listener.get("/").status_code == 200


@contextlib.contextmanager
def orders(front: Front, clients: int = 3, kind: str = "order") -> Iterator[list[tuple[str, int]]]:
    """Clients that send one POST after the other, each to a path of its own; what each was answered."""
    answered: list[tuple[str, int]] = []
    over = threading.Event()

    def one(name: int) -> None:
        number = 0
        with front.listener.client() as client:
            while not over.is_set():
                number += 1
                try:
                    status = client.post(f"/{kind}/{name}/{number}", content=b"x" * 2000).status_code
                except httpx.TransportError as error:
                    # A connection that nginx closed between two requests says nothing of the app, which has not
                    # heard of the second (that is for the test to look at).
                    closed = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
                    status = 0 if isinstance(error, closed) else 999
                answered.append((f"/{kind}/{name}/{number}", status))

    threads = [threading.Thread(target=one, args=(name,)) for name in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answered
    finally:
        over.set()
        for thread in threads:
            thread.join()
