"""The ways to leave: what was accepted is served, idle connections are closed politely, and the exit status is 0."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import BACKENDS, Case, Connection, WorkerProcess

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

every_server = pytest.mark.parametrize("case", BACKENDS, ids=str)
tcp_and_unix = pytest.mark.parametrize("kind", ["tcp", "unix"])


@pytest.fixture
def listener(kind: str, tcp: Make, unix: Make) -> Listener:
    return unix() if kind == "unix" else tcp()


def start(worker: Spawn, case: Case, listeners: list[Listener], **fields: Any) -> WorkerProcess:
    """Start the app on a server, ready."""
    process = worker(listeners, app=f"workerapp:{case.interface}", backend=case.backend, options=case.options, **fields)
    process.ready()
    return process


@every_server
@tcp_and_unix
def test_request_under_way_is_finished(
    case: Case, kind: str, listener: Listener, worker: Spawn, connect: Connect
) -> None:
    process = start(worker, case, [listener])
    client = connect(listener)
    client.send("/gate")
    process.entered()
    process.stop()
    assert process.process.poll() is None
    process.let_go()
    status, _, body = client.answer()
    assert (status, body) == (200, b"hello")
    client.close()
    assert process.wait() == 0, process.output
    assert "Traceback" not in process.output


@every_server
@tcp_and_unix
def test_connection_that_was_accepted_and_not_read_is_served(
    case: Case, kind: str, listener: Listener, worker: Spawn, connect: Connect
) -> None:
    if not case.concurrent:
        pytest.skip("it accepts a connection only to serve it at once")
    process = start(worker, case, [listener], drain_grace=5.0)
    early = connect(listener)
    until(lambda: accepted(process.process.pid, listener) >= 1, what="the worker to accept")
    process.stop()
    status, headers, body = early.get()
    assert (status, body) == (200, b"hello")
    assert headers.get("connection") == "close" or headers.get("connection") is None
    assert early.is_closed()
    assert process.wait() == 0, process.output


def accepted(pid: int, listener: Listener) -> int:
    """Connections that a process holds: its sockets, less those it had before."""
    if listener.path:
        lines = Path("/proc/net/unix").read_text().splitlines()
        inodes = {line.split()[6] for line in lines if line.endswith(str(listener.path)) and line.split()[5] == "03"}
    else:
        port = f":{listener.sock.getsockname()[1]:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inodes = {row[9] for row in rows if row[1].endswith(port) and row[3] == "01"}
    held = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            held.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return sum(f"socket:[{inode}]" in held for inode in inodes)


@every_server
@tcp_and_unix
def test_idle_connections_are_closed(
    case: Case, kind: str, listener: Listener, worker: Spawn, connect: Connect
) -> None:
    if not case.keepalive:
        pytest.skip("it keeps no connections")
    process = start(worker, case, [listener])
    idle = [connect(listener) for _ in range(3)]
    for client in idle:
        assert client.get()[0] == 200
    process.stop()
    assert all(client.is_closed() for client in idle)
    assert process.wait() == 0, process.output


@every_server
def test_request_on_a_kept_connection_during_the_drain_is_answered(
    case: Case, worker: Spawn, connect: Connect, tcp: Make
) -> None:
    if not case.keepalive or not case.concurrent:
        pytest.skip("it keeps no connections, or serves one at a time")
    listener = tcp()
    process = start(worker, case, [listener], drain_grace=5.0)
    busy, kept = connect(listener), connect(listener)
    assert kept.get()[0] == 200
    busy.send("/gate")
    process.entered()
    process.stop()
    status, headers, _ = kept.get()
    assert (status, headers.get("connection")) == (200, "close")
    assert kept.is_closed()
    process.let_go()
    assert busy.answer()[0] == 200
    assert process.wait() == 0, process.output


@every_server
def test_connections_in_the_queue_are_left_to_the_siblings(
    case: Case, worker: Spawn, connect: Connect, tcp: Make
) -> None:
    listener = tcp()
    process = start(worker, case, [listener])
    process.stop()
    assert process.wait() == 0, process.output
    waiting = connect(listener)
    waiting.send()
    start(worker, case, [listener])
    assert waiting.answer()[0] == 200


@every_server
def test_leaves_when_the_supervisor_dies(case: Case, run_dir: Path, tcp: Make, connect: Connect) -> None:
    """A process in between plays a supervisor that is killed in the middle of a request."""
    listener = tcp()
    script = run_dir / "supervisor.py"
    script.write_text(SUPERVISOR)
    root = Path(__file__).parents[2]
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, str(script), str(listener.fd), str(theirs.fileno()), case.backend, case.interface,
         repr(case.options), str(run_dir)],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'backends'}"},
        pass_fds=[listener.fd, theirs.fileno()],
        stdout=subprocess.PIPE,
    ) as supervisor:  # fmt: skip
        theirs.close()
        ours.settimeout(20)
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        client = connect(listener)
        client.send("/gate")
        assert ours.recv(3) == b"in "
        supervisor.kill()
        supervisor.wait()
    ours.sendall(b"g")
    assert client.answer()[0] == 200
    client.close()
    ours.close()
    # It is our child now (the tests adopt orphans).
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


SUPERVISOR = """
import ast, sys, time
from pathlib import Path
from tests.support.server import Listener
from tests.support.workerkit import WorkerProcess
import socket, tests.support.workerkit as kit
fd, gate, backend, interface, options, directory = sys.argv[1:]
pair = socket.socketpair
ends = iter([pair(socket.AF_UNIX, socket.SOCK_SEQPACKET)])
sock = socket.socket(fileno=int(fd))
theirs = socket.socket(fileno=int(gate))
class Pairs:
    def __call__(self, *args):
        return pair(*args) if args else (pair()[0], theirs)
kit.socket.socketpair = Pairs()
worker = WorkerProcess(Path(directory), [Listener(sock, "x")], app="workerapp:" + interface, backend=backend,
                       options=ast.literal_eval(options))
worker.ready()
print(worker.process.pid, flush=True)
worker.process.wait()
"""


@every_server
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT], ids=["INT", "QUIT"])
def test_fast_stop_waits_for_nobody(case: Case, signum: int, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = start(worker, case, [listener])
    kept = connect(listener)
    if case.keepalive:
        assert kept.get()[0] == 200
    if case.concurrent:
        busy = connect(listener)
        busy.send("/gate")
        process.entered()
    process.process.send_signal(signum)
    assert process.wait() == 0, process.output
    assert "Traceback" not in process.output


@every_server
def test_another_stop_signal(case: Case, worker: Spawn, connect: Connect, tcp: Make) -> None:
    listener = tcp()
    process = start(worker, case, [listener], stop_signal=int(signal.SIGUSR2))
    client = connect(listener)
    client.send("/gate")
    process.entered()
    process.stop(signal.SIGUSR2)
    process.let_go()
    assert client.answer()[0] == 200
    client.close()
    assert process.wait() == 0, process.output


@every_server
def test_stop_during_the_import_is_obeyed_at_once(case: Case, worker: Spawn, tcp: Make, run_dir: Path) -> None:
    (run_dir / "slow.py").write_text(
        "import os, socket\ngate = socket.socket(fileno=int(os.environ['GATE']))\ngate.sendall(b'in ')\ngate.recv(1)\n"
    )
    process = worker([tcp()], app="slow", backend=case.backend, options=case.options)
    process.entered()
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


def test_worker_whose_supervisor_is_gone_before_it_could_say_so(worker: Spawn, tcp: Make) -> None:
    process = worker([tcp()], parent=1 if os.getpid() != 1 else 2)
    assert process.message() == {}
    assert process.wait() == 0, process.output


@pytest.mark.parametrize(
    ("backend", "app"),
    [
        ("uvicorn", "asgi"),
        ("gunicorn", "asgi"),
        ("hypercorn", "asgi"),
        ("daphne", "asgi"),
        ("granian", "asgi"),
        ("aiohttp", "aiohttp"),
    ],
)
def test_lifespan_shutdown_is_run(backend: str, app: str, worker: Spawn, tcp: Make) -> None:
    process = worker([tcp()], app=f"workerapp:{app}", backend=backend)
    process.ready()
    process.stop()
    assert process.wait() == 0, process.output
    assert "lifespan shutdown" in process.output


@pytest.mark.parametrize(
    ("backend", "app"),
    [("uvicorn", "asgi"), ("hypercorn", "asgi"), ("daphne", "asgi"), ("granian", "asgi"), ("aiohttp", "aiohttp")],
)
def test_stop_gives_up_a_little_before_the_supervisor_would(
    backend: str, app: str, worker: Spawn, connect: Connect, tcp: Make
) -> None:
    listener = tcp()
    process = worker([listener], app=f"workerapp:{app}", backend=backend, stop_timeout=1.5)
    process.ready()
    client = connect(listener)
    client.send("/gate")
    process.entered()
    process.stop()
    assert process.wait() == 0, process.output
    assert "lifespan shutdown" in process.output


@pytest.mark.parametrize(
    ("backend", "app"), [("hypercorn", "wsgi"), ("tornado", "wsgi"), ("tornado", "tornado"), ("daphne", "asgi")]
)
def test_one_that_never_ends_does_not_hold_the_worker(
    backend: str, app: str, worker: Spawn, connect: Connect, tcp: Make
) -> None:
    """A thread cannot be cancelled: it is left behind."""
    listener = tcp()
    process = worker([listener], app=f"workerapp:{app}", backend=backend, stop_timeout=1.0)
    process.ready()
    client = connect(listener)
    client.send("/gate")
    process.entered()
    process.stop()
    assert process.wait() == 0, process.output
