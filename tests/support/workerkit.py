"""Plays the supervisor for one worker: listening sockets, the job in a memfd, the notify socket, the exec."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from trapeze.boot import BOOT

__all__ = [
    "APP",
    "BACKENDS",
    "PATIENCE",
    "ROOT",
    "Case",
    "Connection",
    "Talking",
    "WorkerProcess",
    "about",
    "check",
    "lacks",
    "must_keep",
    "run_job",
]

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds after which a test gives up; nothing here takes more than two."""

APP = '''
import json, os, socket

HELLO = b"hello"

def _gate():
    """Tell the test that the request is here, and wait for its word: a socket, so that green threads may switch."""
    return socket.socket(fileno=os.dup(int(os.environ["GATE"])))

def _facts(environ):
    keep = {key: value for key, value in environ.items() if isinstance(value, (str, int, bool))}
    keep["pid"] = os.getpid()
    return json.dumps(keep).encode()

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = HELLO
    if path == "/environ":
        body = _facts(environ)
    elif path == "/echo":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    elif path == "/gate":
        gate = _gate()
        gate.sendall(b"in ")
        gate.recv(1)
        gate.close()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("lifespan shutdown", flush=True)
                return
    body = HELLO
    if scope["path"].endswith("/environ"):
        keep = {key: value for key, value in scope.items() if isinstance(value, (str, int, list, tuple))}
        keep["headers"] = [[k.decode(), v.decode()] for k, v in scope["headers"]]
        keep.update(pid=os.getpid())
        body = json.dumps(keep, default=repr).encode()
    elif scope["path"] == "/echo":
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
    elif scope["path"] == "/gate":
        import asyncio
        gate = _gate()
        gate.setblocking(False)
        gate.sendall(b"in ")
        await asyncio.get_running_loop().sock_recv(gate, 1)
        gate.close()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

def __getattr__(name):
    """The same as an app of aiohttp or tornado, made when somebody asks for it."""
    import nativeapp
    return nativeapp.make(name, asgi)
'''
"""The app that conformance tests run, as WSGI and as ASGI, and as an app of each server that has its own kind."""

NATIVE = ROOT / "tests" / "support" / "apps" / "nativeapp.py"


class Case(NamedTuple):
    """One server that the conformance tests are run with."""

    name: str
    backend: str
    options: dict[str, Any]
    interface: str = "wsgi"
    keepalive: bool = True
    """It keeps connections open between requests."""
    concurrent: bool = True
    """It serves other connections while one request is under way."""
    split: bool = False
    """Its requests are answered by children of the worker."""

    def __str__(self) -> str:
        return self.name


def _chaussette(server: str, **more: Any) -> Case:
    return Case(f"chaussette-{server}", "chaussette", {"backend": server}, **more)


BACKENDS = [
    Case("gunicorn-sync", "gunicorn", {"worker_class": "sync"}, keepalive=False, concurrent=False),
    Case("gunicorn-gthread", "gunicorn", {}),
    Case("gunicorn-gevent", "gunicorn", {"worker_class": "gevent"}),
    Case("gunicorn-asgi", "gunicorn", {}, interface="asgi"),
    Case("uvicorn-uvloop", "uvicorn", {}, interface="asgi"),
    Case("uvicorn-asyncio-h11", "uvicorn", {"loop": "asyncio", "http": "h11"}, interface="asgi"),
    Case("hypercorn-uvloop", "hypercorn", {}, interface="asgi"),
    Case("hypercorn-asyncio", "hypercorn", {"worker_class": "asyncio"}, interface="asgi"),
    Case("hypercorn-wsgi", "hypercorn", {}),
    Case("daphne", "daphne", {}, interface="asgi"),
    Case("aiohttp-uvloop", "aiohttp", {}, interface="aiohttp"),
    Case("aiohttp-asyncio", "aiohttp", {"loop": "asyncio"}, interface="aiohttp"),
    Case("tornado", "tornado", {}, interface="tornado"),
    Case("tornado-wsgi", "tornado", {}),
    _chaussette("wsgiref", keepalive=False, concurrent=False),
    _chaussette("waitress"),
    _chaussette("gevent"),
    _chaussette("geventwebsocket"),
    _chaussette("eventlet"),
    _chaussette("bjoern", concurrent=False, split=True),
    Case("waitress", "waitress", {}),
    Case("gevent", "gevent", {}),
    Case("gevent-websocket", "gevent", {"websocket": True}),
    Case("cheroot", "cheroot", {}),
    Case("bjoern", "bjoern", {}, concurrent=False, split=True),
    Case("werkzeug", "werkzeug", {}, keepalive=False),
    Case("werkzeug-single", "werkzeug", {"threaded": False}, keepalive=False, concurrent=False),
    Case("fastpysgi", "fastpysgi", {}, concurrent=False),
    Case("granian-wsgi", "granian", {}),
    Case("granian-asgi", "granian", {}, interface="asgi"),
    Case("uwsgi", "uwsgi", {}, keepalive=False),
    # pyuwsgi's script stands in for the program, which is the same but for the interpreter that it brings along.
    Case("uwsgi-program", "uwsgi", {"binary-path": str(Path(sys.executable).with_name("uwsgi"))}, keepalive=False),
]


class Talking:
    """A worker that says what it does on a notify socket, and writes its output to a file."""

    notify: socket.socket
    messages: list[dict[str, str]]
    out: Path

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        raise NotImplementedError

    @property
    def output(self) -> str:
        """What it wrote on stdout and stderr."""
        return self.out.read_text()

    def message(self) -> dict[str, str]:
        """Wait for its next message; {} when it has gone."""
        packet = self.notify.recv(1 << 20)
        found = dict(line.partition("=")[::2] for line in packet.decode().split("\n")) if packet else {}
        self.messages.append(found)
        return found

    def ready(self) -> dict[str, str]:
        """Wait until it is ready; returns what it says of itself."""
        message = self.message()
        assert message.get("READY") == "1", (message, self.output)
        said: dict[str, str] = json.loads(message["X_TRAPEZE"])
        return said

    def error(self) -> dict[str, str]:
        """Wait until it reports why it cannot start, and has gone with 3."""
        message = self.message()
        assert "X_TRAPEZE_ERROR" in message, (message, self.output)
        assert self.wait() == 3
        said: dict[str, str] = json.loads(message["X_TRAPEZE_ERROR"])
        return said


class WorkerProcess(Talking):
    """A worker, spawned as the supervisor does it.

    Args:
        directory: the app's directory; `workerapp.py` is written there if it has none.
        listeners: what it accepts on; made non-blocking, as the supervisor does.
        python: the interpreter.
        pass_fds: what it inherits beside sockets and the like, under the same numbers.
        fields: of the job.
    """

    def __init__(
        self,
        directory: Path,
        listeners: Sequence[Listener] = (),
        python: str = sys.executable,
        pass_fds: Sequence[int] = (),
        **fields: Any,
    ) -> None:
        app = directory / "workerapp.py"
        if not app.exists():
            app.write_text(APP)
            shutil.copy(NATIVE, directory)
        self.directory = directory
        self.python = python
        self.listeners = list(listeners)
        self.messages: list[dict[str, str]] = []
        self.notify, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.gate, self._gate = socket.socketpair()
        for end in (self.notify, self.gate):
            end.settimeout(PATIENCE)
        for listener in listeners:
            listener.sock.setblocking(False)
        self.out = directory / f"out-{self.notify.fileno()}"
        self.job = {
            "version": 1,
            "mode": "serve",
            "service": "web",
            "index": 0,
            "generation": 1,
            "label": "web[0]",
            "parent": os.getpid(),
            "stop_signal": int(signal.SIGTERM),
            "notify_fd": self._theirs.fileno(),
            "sockets": [
                {"name": "web", "fd": listener.fd, "address": listener.address, "backlog": 77} for listener in listeners
            ],
            "app_dir": str(directory),
            "app": "workerapp:wsgi",
            "stop_timeout": 20.0,
            "drain_grace": 0.2,
            **fields,
        }
        self.gate_fd = self._gate.fileno()
        self.pass_fds = list(pass_fds)
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        fd = os.memfd_create("job")
        os.write(fd, json.dumps(self.job).encode())
        os.set_inheritable(fd, True)
        fds = [fd, self._theirs.fileno(), self._gate.fileno(), *(listener.fd for listener in self.listeners)]
        board = self.job.get("board")
        if isinstance(board, dict):
            fds.append(board["fd"])
        fds += self.pass_fds
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LISTEN_"))}
        try:
            with open(self.out, "wb") as out:
                return subprocess.Popen(
                    [self.python, "-c", BOOT, str(self.job["label"]), str(fd), str(ROOT / "backends")],
                    env={**environ, "GATE": str(self._gate.fileno())},
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    pass_fds=fds,
                    start_new_session=True,
                )
        finally:
            os.close(fd)
            self._theirs.close()

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ask it to leave, and wait until it has taken note."""
        self.process.send_signal(signum)
        message = self.message()
        assert message == {"STOPPING": "1"}, (message, self.output)

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        return self.process.wait(PATIENCE)

    def entered(self) -> None:
        """Wait until a request to /gate is inside the app."""
        assert self.gate.recv(3) == b"in "

    def let_go(self) -> None:
        """Let the request in /gate finish."""
        self.gate.sendall(b"g")

    def close(self) -> None:
        """Kill what is left, and close our ends."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        for end in (self.notify, self.gate, self._gate):
            end.close()


class Connection:
    """An HTTP/1.1 client connection, one step at a time."""

    def __init__(self, listener: Listener) -> None:
        self.sock = socket.socket(listener.sock.family, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(listener.path) if listener.path else listener.sock.getsockname())
        self.stream = self.sock.makefile("rb")

    def send(self, path: str = "/", method: str = "GET", body: bytes = b"", **headers: str) -> None:
        """Send one whole request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: example.com"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one whole answer: status, headers in lower case, body."""
        line = self.stream.readline()
        assert line, "the connection was closed without an answer"
        headers: dict[str, str] = {}
        while (header := self.stream.readline().decode().strip()) != "":
            name, _, value = header.lower().partition(":")
            headers[name] = f"{headers.get(name, '')} {value.strip()}".strip()
        body = self.stream.read(int(headers.get("content-length", 0)))
        return int(line.split()[1]), headers, body

    def get(self, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request and its answer."""
        self.send(path, "GET", b"", **headers)
        return self.answer()

    def is_closed(self) -> bool:
        """Wait for the other side to close; False when it sends something instead."""
        return self.stream.read(1) == b""

    def close(self) -> None:
        """Close it."""
        self.stream.close()
        self.sock.close()


class Ended(NamedTuple):
    """How a job ended that does not serve."""

    code: int
    out: str
    err: str


def run_job(job: dict[str, Any], *, python: str = sys.executable, fds: Sequence[int] = (), **options: Any) -> Ended:
    """Run a job of mode check or exec to its end."""
    fd = os.memfd_create("job")
    os.write(fd, json.dumps({"version": 1, "parent": os.getpid(), **job}).encode())
    try:
        done = subprocess.run(
            [python, "-c", BOOT, "job", str(fd), str(ROOT / "backends")],
            pass_fds=[fd, *fds],
            capture_output=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            **options,
        )
    finally:
        os.close(fd)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def check(**fields: Any) -> dict[str, Any]:
    """Run a job of mode check; returns what it printed."""
    python = fields.pop("python", sys.executable)
    done = run_job({"mode": "check", **fields}, python=python)
    assert done.code == 0, done
    assert done.err == "", done
    answer: dict[str, Any] = json.loads(done.out)
    return answer


@cache
def _about(backend: str, options: str, interface: str) -> dict[str, Any]:
    return check(backend=backend, options=json.loads(options), interface=interface)


def about(case: Case) -> dict[str, Any]:
    """What the backend of a case says of itself: `lacks`, `fields` and so on."""
    return _about(case.backend, json.dumps(case.options), case.interface)


def lacks(case: Case, promise: str) -> str:
    """Why the server of a case cannot keep a promise; "" if it can."""
    why: str = about(case)["lacks"].get(promise, "")
    return why


def must_keep(case: Case, promise: str) -> None:
    """Skip the test if the server says that it cannot keep a promise of the contract."""
    if why := lacks(case, promise):
        pytest.skip(f"{case.name} lacks {promise}: {why}")


def gone(pid: int) -> None:
    """Wait until a process that is not our child has gone."""
    until(lambda: not os.path.exists(f"/proc/{pid}"), what=f"the end of {pid}")
