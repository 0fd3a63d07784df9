"""A zygote imports the app once and forks workers of it, which are as good as spawned ones and children of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import Listener
from tests.support.wait import until
from tests.support.workerkit import BACKENDS, PATIENCE, Case, Connection, must_keep
from tests.support.zygotekit import Forked, Zygote

Make = Callable[..., Any]
Spawn = Callable[..., Zygote]
Connect = Callable[[Listener], Connection]

every_server = pytest.mark.parametrize("case", BACKENDS, ids=str)

APP = """
import atexit, gc, json, os, random, sys, threading
print("imported by", os.getpid(), end=" ")
sys.stdout.write("unfinished")
imported_by = os.getpid()
calls = []
atexit.register(lambda: os.write(2, b"atexit in %d\\n" % os.getpid()))

def after_fork():
    calls.append(os.getpid())

def fails():
    raise LookupError("no such shelf")

async def never():
    pass

def wsgi(environ, start_response):
    facts = {"pid": os.getpid(), "ppid": os.getppid(), "pgid": os.getpgid(0), "imported_by": imported_by,
             "env": dict(os.environ), "random": random.random(), "gc": gc.isenabled(), "threshold": gc.get_threshold(),
             "frozen": gc.get_freeze_count(), "calls": calls, "fds": sorted(os.listdir("/proc/self/fd")),
             "main": threading.current_thread() is threading.main_thread(), "argv": sys.argv}
    body = json.dumps(facts).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def facts(run_dir: Path, zygote: Spawn, tcp: Make) -> Callable[..., Zygote]:
    """A zygote of the app above, ready."""
    (run_dir / "factsapp.py").write_text(APP)

    def make(**fields: Any) -> Zygote:
        process = zygote([tcp()], app="factsapp:wsgi", **{"backend": "gunicorn", **fields})
        process.ready()
        return process

    return make


def ask(connect: Connect, process: Zygote) -> dict[str, Any]:
    """What the worker says of itself."""
    found: dict[str, Any] = json.loads(connect(process.serves[0]).get("/", Connection="close")[2])
    return found


@every_server
def test_forked_workers_serve_and_leave_like_spawned_ones(
    case: Case, zygote: Spawn, connect: Connect, tcp: Make
) -> None:
    must_keep(case, "preload")
    process = zygote([tcp()], app=f"workerapp:{case.interface}", backend=case.backend, options=case.options)
    said = process.ready()
    assert (said["backend"], said["interface"], said["unsafe"]) == (case.backend, case.interface, "")
    first = process.fork(0)
    assert first.ready()["backend"] == case.backend
    assert connect(process.serves[0]).get("/", Connection="close")[2] == b"hello"
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = process.fork(0)
    second.ready()
    facts = json.loads(connect(process.serves[0]).get("/environ", Connection="close")[2])
    assert facts["pid"] == second.pid
    second.stop()
    assert second.wait() == 0
    assert "Traceback" not in second.output and "Error" not in second.output
    third = process.fork(0)
    third.ready()
    third.signal(signal.SIGQUIT)
    assert third.wait() == 0
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.output == ""


def test_why_it_cannot_serve_is_said_once(zygote: Spawn, tcp: Make) -> None:
    """By the worker, as an error; the zygote, which finds it first, does not print it."""
    process = zygote([tcp()], app="workerapp:wsgi", backend="gunicorn", options={"worker_class": "nosuch.Class"})
    process.ready()

    said = process.fork().error()

    assert said["message"].startswith("gunicorn cannot load the worker class 'nosuch.Class'")
    assert process.output == ""


@every_server
def test_a_request_under_way_is_finished(case: Case, zygote: Spawn, connect: Connect, tcp: Make) -> None:
    must_keep(case, "preload")
    process = zygote([tcp()], app=f"workerapp:{case.interface}", backend=case.backend, options=case.options)
    process.ready()
    worker = process.fork()
    worker.ready()
    client = connect(process.serves[0])
    client.send("/gate", Connection="close")
    process.entered()
    worker.stop()
    process.let_go()
    assert client.answer()[2] == b"hello"
    client.close()
    assert worker.wait() == 0


def test_it_is_our_child_in_a_group_of_its_own_and_has_imported_nothing(facts: Make, connect: Connect) -> None:
    process = facts()
    worker = process.fork(3)
    worker.ready()
    found = ask(connect, process)
    assert (found["pid"], found["ppid"], found["pgid"]) == (worker.pid, os.getpid(), worker.pid)
    assert found["imported_by"] == process.pid
    assert found["env"]["TRAPEZE_INDEX"] == "3"
    assert found["gc"] is True and found["threshold"] == [700, 10, 10] and found["frozen"] > 1000
    assert found["argv"] == ["trapeze"]


def test_a_spawned_worker_is_not_frozen(facts: Make, worker: Make, tcp: Make, connect: Connect) -> None:
    """The control of the test before."""
    facts()
    process = worker([tcp()], app="factsapp:wsgi", backend="gunicorn")
    process.ready()
    found = json.loads(connect(process.listeners[0]).get("/", Connection="close")[2])
    assert found["frozen"] == 0 and found["imported_by"] == process.process.pid


def test_random_numbers_differ(facts: Make, connect: Connect) -> None:
    process = facts()
    numbers = []
    for index in range(3):
        worker = process.fork(index)
        worker.ready()
        numbers.append(ask(connect, process)["random"])
        worker.stop()
        worker.wait()
    assert len(set(numbers)) == 3


def test_output_and_exit_handlers_are_each_process_s_own(facts: Make, connect: Connect) -> None:
    """What the zygote had not written yet is written once; the middle process and the zygote run no exit handlers."""
    process = facts()
    workers = [process.fork(index) for index in range(2)]
    for worker in workers:
        worker.ready()
    for worker in workers:
        worker.stop()
        assert worker.wait() == 0
        assert worker.output == f"atexit in {worker.pid}\n"
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.output == f"imported by {process.pid} unfinished"


def test_workers_outlive_the_zygote(facts: Make, connect: Connect) -> None:
    process = facts()
    worker = process.fork()
    worker.ready()
    process.process.kill()
    assert process.wait() == -signal.SIGKILL
    assert ask(connect, process)["pid"] == worker.pid
    worker.stop()
    assert worker.wait() == 0


def test_the_end_of_the_line_ends_the_zygote_alone(facts: Make, connect: Connect) -> None:
    process = facts()
    worker = process.fork()
    worker.ready()
    process.line.close()
    assert process.wait() == 0
    assert ask(connect, process)["pid"] == worker.pid


def test_one_that_is_not_wanted_leaves_without_having_begun(facts: Make) -> None:
    process = facts(after_fork="factsapp:fails")
    worker = process.fork(go=False)
    worker.drop()
    assert worker.wait() == 0
    assert worker.message() == {}
    assert worker.output == ""


def test_a_worker_of_a_supervisor_that_is_gone_does_not_begin(facts: Make) -> None:
    """It looks who its parent is after it has asked for the parent-death signal: one sent before never comes."""
    process = facts()
    worker = process.fork(parent=process.pid)
    assert worker.wait() == 0
    assert worker.message() == {}


KILLED = """
import ctypes, os, sys
from pathlib import Path
from tests.support.server import listen_tcp
from tests.support.zygotekit import Zygote
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
zygote = Zygote(Path(sys.argv[1]), [listen_tcp()], app="workerapp:wsgi", backend="gunicorn")
zygote.ready()
worker = zygote.fork()
worker.ready()
print(worker.pid, zygote.pid, flush=True)
sys.stdin.read()
"""


def test_workers_leave_when_the_supervisor_is_killed(run_dir: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    with run:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        run.kill()
    for pid in pids:  # pytest has inherited them
        assert ended(pid) == (os.CLD_EXITED, 0)


def ended(pid: int) -> tuple[int, int]:
    """Wait for the end of a child; returns how it ended."""
    dead = until(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG), PATIENCE, f"end of {pid}")
    assert dead is not None
    return dead.si_code, dead.si_status


def words(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


def test_ps_shows_its_own_label(facts: Make) -> None:
    process = facts(label="web zygote factsapp")
    worker = process.fork(7)
    worker.ready()
    assert "web zygote factsapp" in words(process.pid)
    assert "web[7] factsapp:wsgi" in words(worker.pid)
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(worker.pid)], capture_output=True, text=True, check=True
    )
    assert "web[7] factsapp:wsgi" in shown.stdout
    assert Path(f"/proc/{worker.pid}/environ").read_bytes() == Path(f"/proc/{process.pid}/environ").read_bytes()


@pytest.mark.parametrize("label", ["x", "web[0] " + "a" * 4000])
def test_labels_of_any_length(label: str, facts: Make) -> None:
    process = facts()
    room = len("\0".join(words(process.pid)))
    worker = process.fork(0, label=label)
    worker.ready()
    found = "\0".join(words(worker.pid))
    assert len(found) == room, "it stays within what was there"
    assert f"\0{label[:20]}" in found


def test_no_descriptor_stays_behind(facts: Make, connect: Connect) -> None:
    process = facts()
    counts = []
    for index in range(5):
        worker = process.fork(index)
        worker.ready()
        counts.append((len(os.listdir(f"/proc/{process.pid}/fd")), len(ask(connect, process)["fds"])))
        worker.signal(signal.SIGKILL)
        worker.wait()
    assert len(set(counts)) == 1, counts


def test_a_worker_holds_nothing_of_the_zygote_s(facts: Make) -> None:
    """Its socket to the supervisor least of all: only the end of the zygote may end that."""
    process = facts()
    worker = process.fork()
    worker.ready()
    ours = {os.stat(f"/proc/{process.pid}/fd/{fd}").st_ino for fd in (process.job["fork_fd"], process.job["notify_fd"])}
    theirs = {os.stat(f"/proc/{worker.pid}/fd/{fd}").st_ino for fd in os.listdir(f"/proc/{worker.pid}/fd")}
    assert len(ours) == 2 and not ours & theirs


@pytest.mark.parametrize("mode", ["zygote", "spare", "serve"])
def test_after_fork_is_called_in_each_worker(
    mode: str, facts: Make, worker: Make, tcp: Make, connect: Connect, run_dir: Path
) -> None:
    if mode == "serve":
        (run_dir / "factsapp.py").write_text(APP)
        spawned = worker([tcp()], app="factsapp:wsgi", backend="gunicorn", after_fork="factsapp:after_fork")
        spawned.ready()
        found = json.loads(connect(spawned.listeners[0]).get("/", Connection="close")[2])
    else:
        process = facts(mode=mode, after_fork="factsapp:after_fork")
        if mode == "zygote":
            process.fork().ready()
        else:
            process.employ()
            process.ready()
        found = ask(connect, process)
    assert found["calls"] == [found["pid"]]


def failed(worker: Forked) -> dict[str, str]:
    return worker.error()


def test_a_failing_after_fork_is_a_failed_start(facts: Make) -> None:
    process = facts(after_fork="factsapp:fails")
    said = failed(process.fork())
    assert said["message"] == "after_fork factsapp:fails failed: LookupError: no such shelf"
    assert 'raise LookupError("no such shelf")' in said["traceback"]
    assert "zygote" not in said["traceback"]
    assert process.process.poll() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("factsapp:nothing", "after_fork: module factsapp has no attribute 'nothing'"),
        ("nomod:x", "after_fork: no module named 'nomod'"),
        ("fact sapp:x", "after_fork: 'fact sapp:x' does not name a function"),
        ("factsapp", "after_fork: 'factsapp' names no function"),
        ("factsapp:never", "after_fork: factsapp:never is asynchronous"),
        ("factsapp:imported_by", "after_fork: factsapp:imported_by cannot be called, it is int"),
    ],
)
def test_an_after_fork_that_is_none(text: str, message: str, facts: Make) -> None:
    assert failed(facts(after_fork=text).fork())["message"] == message


def test_health_is_asked_in_each_worker(facts: Make, connect: Connect) -> None:
    process = facts(health={"path": "/", "status": 204}, after_fork="factsapp:after_fork")
    assert failed(process.fork())["message"] == "health / answered 200, not 204"


def test_an_app_that_cannot_be_imported(zygote: Spawn, run_dir: Path) -> None:
    (run_dir / "broken.py").write_text("raise LookupError('no such shelf')\n")
    said = zygote(app="broken:app").error()
    assert said["message"] == "importing broken failed: LookupError: no such shelf"


@pytest.mark.parametrize(
    "request_", [{"job": {"version": 99}}, {"job": {"version": 1, "notify_fd": 5}}, {"job": None}, {}]
)
def test_a_request_that_makes_no_sense_is_answered(request_: dict[str, Any], facts: Make, connect: Connect) -> None:
    process = facts()
    assert process.ask(request_, [0])["error"].startswith("cannot read the request: ")
    process.fork().ready()
    assert ask(connect, process)["imported_by"] == process.pid


FULL = """
import errno, os
from trapeze_backends import forking
fork, zygote, stage = forking.fork, os.getpid(), os.path.join(os.path.dirname(__file__), "stage")

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return []

def no_place():
    forking.fork = some_refused

def some_refused():
    with open(stage) as file:
        if file.read() == ("zygote" if os.getpid() == zygote else "middle"):
            raise OSError(errno.EAGAIN, "no place")
    return fork()
"""


def test_a_fork_that_fails_is_answered(zygote: Spawn, tcp: Make, run_dir: Path) -> None:
    """There is no place for another process: first in the zygote, then in the middle process, then there is."""
    (run_dir / "fullapp.py").write_text(FULL)
    stage = run_dir / "stage"
    stage.write_text("zygote")
    process = zygote([tcp()], app="fullapp:wsgi", warm="fullapp:no_place")
    process.ready()
    for after in ("middle", "none"):
        fds = [process.notify.fileno()]
        job = process.request(0, fds, notify_fd=0)
        answer = process.ask({"job": job, "stdio": None, "go": None}, fds)
        assert answer["error"] == "cannot fork: Resource temporarily unavailable"
        stage.write_text(after)
    process.fork().ready()
