"""A backend that is a program of its own: the one in backends/README.md, with a small server that it runs."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import Connection, WorkerProcess, check
from tests.support.zygotekit import Zygote
from trapeze.prelude import DUMP_SIGNAL
from trapeze.scoreboard import Scoreboard

README = Path(__file__).parents[2] / "backends" / "README.md"

Make = Callable[..., Any]
Spawn = Callable[..., WorkerProcess]
Connect = Callable[[Listener], Connection]

SERVER = """
import importlib, os, select, signal, socket, sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

environment = {name: os.environ[name] for name in ("LISTEN_FDS", "LISTEN_FDNAMES")}
assert os.environ["LISTEN_PID"] == str(os.getpid())
running = True

def stop(signum, frame):
    global running
    running = False

module, _, name = sys.argv[2].partition(":")
app = getattr(importlib.import_module(module), name)
signal.signal(signal.SIGTERM, stop)
server = WSGIServer(("", 0), WSGIRequestHandler, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.server_name, server.server_port = "localhost", 80
server.setup_environ()
server.set_app(app)
while running:
    if select.select([server.socket], [], [], 0.05)[0]:
        server._handle_request_noblock()
sys.exit(30)
"""

BEATING = '''
    def inside(self, app, sockets, worker):
        """A program whose loop says nothing to anybody: a thread does it."""
        import threading
        import time

        def beat():
            worker.ready()
            while True:
                worker.beat()
                time.sleep(0.05)

        threading.Thread(target=beat, daemon=True).start()
        return app
'''

SHELL = """
from trapeze_backends.contract import Backend

class ShellBackend(Backend):
    name = "shell"
    interfaces = frozenset({"wsgi"})
    program = True
    fields = {"health": "no: has no Python in it"}

    def command(self, job, sockets):
        if job.options.get("missing"):
            return ["/no/such/program"]
        return ["/bin/sh", "-c", 'printf READY=1 >&"$TRAPEZE_NOTIFY_FD"; exec cat']
"""

LOOKS = """
import json, os, sys
GATES = [int(os.environ["GATE"])]
def inherited():
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    return [fd for fd in fds if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)]
AT_IMPORT = inherited()
def wsgi(environ, start_response):
    facts = {"at_import": AT_IMPORT == GATES, "now": inherited() == GATES, "exe": sys.executable,
             "env": sorted(name for name in os.environ if name.startswith(("TRAPEZE", "LISTEN", "PYTHONPATH"))),
             "path": [entry for entry in sys.path if "trapeze_backends" in entry]}
    body = json.dumps(facts).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def installed(run_dir: Path) -> Path:
    """The example of the README and its server, as if they were installed in the app's directory."""
    found = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (run_dir / "wrap.py").write_text(found[1])
    (run_dir / "wrapbeat.py").write_text(found[1] + BEATING)
    (run_dir / "shell.py").write_text(SHELL)
    (run_dir / "wrapserver.py").write_text(SERVER)
    (run_dir / "looks.py").write_text(LOOKS)
    about = run_dir / "wrap-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: wrap\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[trapeze.backends]\nwrap = wrap:WrapBackend\nwrapbeat = wrapbeat:WrapBackend\nshell = shell:ShellBackend\n"
    )
    return run_dir


@pytest.fixture
def table() -> Iterator[Scoreboard]:
    made = Scoreboard()
    yield made
    made.close()


def test_example_serves_and_leaves(installed: Path, worker: Spawn, tcp: Make, connect: Connect) -> None:
    listener = tcp()
    process = worker([listener], backend="wrap", access_log=True, root_path="/shop", trusted_proxies=["127.0.0.1"])
    assert process.ready() == {"interface": "wsgi", "backend": "wrap", "version": "1.0"}
    facts = json.loads(connect(listener).get("/shop/environ", X_Forwarded_For="192.0.2.7")[2])
    assert facts["pid"] == process.process.pid, "it has become the program"
    assert (facts["SCRIPT_NAME"], facts["PATH_INFO"], facts["REMOTE_ADDR"]) == ("/shop", "/environ", "192.0.2.7")
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 30, "which is for the supervisor to judge: it has asked for it"
    assert "192.0.2.7 - - [" in process.output


def test_the_app_finds_what_it_finds_everywhere(
    installed: Path, worker: Spawn, tcp: Make, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = tcp()
    process = worker([listener], app="looks:wsgi", backend="wrap")
    process.ready()
    found = json.loads(connect(listener).get()[2])
    assert found == {"at_import": True, "now": True, "exe": process.python, "env": [], "path": []}


def test_it_beats_and_recycles(installed: Path, worker: Spawn, tcp: Make, connect: Connect, table: Scoreboard) -> None:
    listener = tcp()
    slot = table.allocate(7)
    assert slot is not None
    board = {"fd": table.fd, "slot": slot, "full": False}
    process = worker(
        [listener], backend="wrapbeat", board=board, max_requests=2, dump_signal=int(DUMP_SIGNAL), pass_fds=[]
    )
    process.ready()
    until(lambda: table.read(slot).beat, what="a beat")
    for _ in range(2):
        assert connect(listener).get()[0] == 200
    assert process.message() == {"X_TRAPEZE_RECYCLE": "has served 2 requests"}
    process.process.send_signal(DUMP_SIGNAL)
    until(lambda: "most recent call first" in process.output, what="the stacks")


def test_what_is_wrong_with_the_app_is_told(installed: Path, worker: Spawn, tcp: Make) -> None:
    (installed / "broken.py").write_text("def deep():\n    return 1 / 0\n\ndeep()\n")
    process = worker([tcp()], app="broken:app", backend="wrap")
    said = process.error()
    assert said["message"] == "importing broken failed: ZeroDivisionError: division by zero"
    assert "line 2, in deep" in said["traceback"]
    assert process.output == ""
    asgi = worker([tcp()], app="workerapp:asgi", backend="wrap").error()
    assert asgi["message"] == "workerapp:asgi is an ASGI app and wrap serves WSGI only"
    ill = worker([tcp()], backend="wrap", health={"path": "/environ", "status": 204}).error()
    assert ill["message"] == "health /environ answered 200, not 204"


def test_program_that_is_not_there(installed: Path, worker: Spawn, tcp: Make) -> None:
    said = worker([tcp()], backend="shell", options={"missing": True}).error()
    assert said["message"] == "cannot run /no/such/program: No such file or directory"


def test_program_without_python(installed: Path, worker: Spawn, tcp: Make) -> None:
    """It says READY=1 on the descriptor that it is told, and leaves as it likes."""
    process = worker([tcp()], backend="shell", dump_signal=int(DUMP_SIGNAL))
    assert process.message() == {"READY": "1"}
    assert process.wait() == 0
    problems = check(backend="shell", health={"path": "/"}, app_dir=str(installed))["problems"]
    assert [(problem["field"], problem["reason"]) for problem in problems] == [("health", "shell has no Python in it")]


@pytest.mark.parametrize("mode", ["zygote", "spare"])
def test_it_is_not_forked_and_says_why(
    mode: str, installed: Path, zygote: Callable[..., Zygote], tcp: Make, connect: Connect
) -> None:
    """What stands by has not imported the app either: the program will."""
    (installed / "tells.py").write_text("print('imported', flush=True)\nfrom workerapp import wsgi\n")
    process = zygote([tcp()], app="tells:wsgi", backend="wrap", mode=mode)
    said = process.ready()
    assert (said["backend"], said["unsafe"]) == ("wrap", "wrapserver imports the app itself")
    assert process.output == ""
    process.employ(4)
    assert process.ready()["backend"] == "wrap"
    assert json.loads(connect(process.serves[0]).get("/environ")[2])["pid"] == process.pid
    assert "imported\n" in process.output
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 30


def test_preload_cannot_be_had(installed: Path) -> None:
    (problem,) = check(backend="wrap", preload=True, app_dir=str(installed))["problems"]
    assert (problem["field"], problem["reason"]) == ("preload", "cannot be had: wrapserver imports the app itself")
    assert check(backend="wrap", preload="auto", app_dir=str(installed))["problems"] == []
