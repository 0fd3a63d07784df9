"""When a command counts as ready: it says so, a probe finds so, or time has passed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys

import pytest

from tests.support.server import Trapeze
from tests.support.site import Site, run_command
from tests.support.wait import until


def state(server: Trapeze, name: str = "x") -> str:
    processes = server.service(name)["processes"]
    return str(processes[0]["state"]) if processes else ""


def ready(server: Trapeze, name: str = "x") -> None:
    until(lambda: state(server, name) == "READY", what=f"{name} to be ready")


def failure(server: Trapeze, name: str = "x") -> str:
    """Wait until it is FAILED; why."""

    def look() -> str:
        service = server.service(name) if server.door.exists() else {}
        return str(service["why"]) if service.get("status") == "FAILED" else ""

    return until(look, what=f"{name} to be FAILED")


def door(server: Trapeze) -> None:
    """Wait until it can be asked."""
    until(lambda: server.door.exists() and server.status()["services"], what="the door")


def test_notify(site: Site) -> None:
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", f"wait={gate}", "notify")}
        ready = "notify"
        """)
    wire.line()
    door(server)
    assert state(server) == "STARTING"

    gate.open()

    ready(server)
    assert server.stop() == 0


BY_DESCRIPTOR = """
import os, sys, time
print("here", file=open(sys.argv[1], "w"))
open(sys.argv[2]).read(1)
for text in (b"READY=1", b"STATUS=fine\\n"):
    os.write(int(os.environ["TRAPEZE_NOTIFY_FD"]), text)
time.sleep(100)
"""


@pytest.mark.parametrize("on_socket", [False, True], ids=["plain", "on a socket"])
def test_notify_by_descriptor(site: Site, on_socket: bool) -> None:
    """For languages that have no Unix sockets of datagrams: whatever can write can say it."""
    wire, gate, listener = site.wire(), site.gate(), site.tcp()
    script = site.write("says.py", BY_DESCRIPTOR)
    command = f"{sys.executable} -S -E {script} {wire} {gate}"
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.x]
        command = {json.dumps(command)}
        ready = "notify"
        {'socket = "web"' if on_socket else ""}
        """,
        listeners=[listener],
    )
    wire.line()
    door(server)
    assert state(server) == "STARTING"

    gate.open()

    ready(server)
    until(lambda: "fine" in json.dumps(server.service("x")), what="its status")
    assert server.stop() == 0


NOTIFY = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.sendto(sys.argv[2].encode(), "\\0" + sys.argv[1][1:])
"""


def test_only_the_service_itself_may_say_so(site: Site) -> None:
    """A process outside the group of the service that knows the socket's name is not believed; a child is."""
    wire, gate = site.wire(), site.gate()
    script = site.write("notify.py", NOTIFY)
    python = f"{sys.executable} -S -E {script}"
    server = site.up(f"""
        [services.x]
        command = 'echo "$NOTIFY_SOCKET" >{wire}; read word <{gate}; {python} "$NOTIFY_SOCKET" READY=1; exec sleep 3600'
        shell = true
        ready = "notify"
        """)
    address = wire.line()
    assert address.startswith("@")
    door(server)
    before = server.status()["revision"]

    # The same user, another group, alive while it is looked at; STATUS shows that nothing of it was taken.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1\nSTATUS=I am x", "\0" + address[1:])
    assert server.status()["revision"] == before
    process = server.service("x")["processes"][0]
    assert (process["state"], process["status"]) == ("STARTING", "")

    gate.open()
    ready(server)
    assert server.stop() == 0


def test_status_text_and_rubbish(site: Site) -> None:
    """STATUS= is shown; what is no protocol at all does no harm."""
    script = site.write(
        "talks.py",
        "import os, signal, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "say = lambda text: sock.sendto(text, '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "for text in (b'\\xff\\0\\n=', b'READY', b'X_TRAPEZE={', b'X_TRAPEZE_ERROR=[]', b'EXTEND_TIMEOUT_USEC=\\xb2',"
        " b'A=' + b'x' * 60000, b'FDSTORE=1', b'READY=1\\nSTATUS=h\\xc3\\xa4lf'): say(text)\n"
        "signal.pause()\n",
    )
    server = site.up(f"""
        [services.x]
        command = "{sys.executable} -S -E {script}"
        ready = "notify"
        """).ready()

    process = server.service("x")["processes"][0]

    assert (process["state"], process["status"]) == ("READY", "hälf")
    assert server.stop() == 0


SERVES = """
import os, signal, socket, sys
kind, port, gate, wire = sys.argv[1:]
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", int(port)))
os.write(os.open(wire, os.O_WRONLY), b"bound\\n")
if kind == "tcp":
    open(gate).readline()
sock.listen()
status = "503 No" if kind == "http" else "200 OK"
if kind == "http":
    connection, _ = sock.accept()
    connection.recv(1000)
    connection.sendall(b"HTTP/1.0 503 Not Yet\\r\\n\\r\\n")
    connection.close()
    open(gate).readline()
    while True:
        connection, _ = sock.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.0 204 Fine\\r\\n\\r\\n")
        connection.close()
signal.pause()
"""


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_asked_from_outside(kind: str, site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # nobody else binds it meanwhile: it was ours, and is in no ephemeral hurry
    wire, gate = site.wire(), site.gate()
    script = site.write("serves.py", SERVES)
    address = {"tcp": f"tcp://127.0.0.1:{port}", "http": f"http://127.0.0.1:{port}/health"}[kind]
    server = site.up(f"""
        [services.x]
        command = "{sys.executable} -S -E {script} {kind} {port} {gate} {wire}"
        ready = "{address}"
        """)
    assert wire.line() == "bound"
    door(server)
    words = {"tcp": "refused", "http": "503"}[kind]
    until(lambda: words in server.service("x")["processes"][0]["status"], what=f"{words} as the reason")
    assert state(server) == "STARTING"

    gate.open()

    ready(server)
    assert server.stop() == 0


def test_exec(site: Site) -> None:
    """Runs in the service's directory with its environment, again and again, until it exits 0."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x")}
        ready = "exec:sh -c 'test -e $MARK'"
        env = {{ MARK = "there" }}
        """)
    wire.line()
    door(server)
    until(lambda: server.service("x")["processes"][0]["status"], what="a reason")
    assert state(server) == "STARTING"

    site.write("there", "")

    ready(server)
    assert server.stop() == 0


def test_exec_that_hangs_is_killed_with_the_rest(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x")}
        ready = "exec:sh -c 'echo probe >{wire}; exec 9>{wire}; sleep 3600'"
        """)
    assert {line.split()[0] for line in wire.lines(2)} == {"x", "probe"}

    assert server.stop() == 0

    assert wire.rest() == ["x stop"]


def test_after_a_time(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x")}
        ready = "after:300ms"
        """).ready()

    changes = [json.loads(line) for line in server.ctl("events", "--json").out.splitlines()]
    at = {change["to"]: change["at"] for change in changes if change["process"] == 1}
    assert at["READY"] - at["STARTING"] >= 0.299
    assert [change["why"] for change in changes if change["to"] == "READY"] == ["0.3 s have passed"]
    assert server.stop() == 0


def test_after_a_time_needs_a_process(site: Site) -> None:
    """One that has gone before is not ready, however long ago it was started."""
    server = site.up("""
        [services.x]
        command = "sh -c 'exit 3'"
        ready = "after:1h"
        restart = { intensity = 1, cap = 60 }
        """)
    server.expect_error("x")

    why = failure(server)

    assert why == "process 0 exited with status 3 before it was ready"
    assert server.stop() == 0


def test_the_last_answer_of_a_probe_is_the_reason(site: Site) -> None:
    """Of a start that took too long: in the line of its end and in the failure."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x")}
        ready = 'exec:sh -c "exit 7"'
        start_timeout = 2
        restart = {{ intensity = 1, cap = 60 }}
        """)
    server.expect_error("x")

    why = failure(server)

    end = 'not ready in 2 s (sh -c "exit 7": exited 7), exited with status 0'
    assert why == f"process 0 {end}"
    server.wait_output(rf"x\[0\] pid [0-9]+ {re.escape(end)}$")
    assert server.stop() == 0


def test_start_timeout(site: Site) -> None:
    """Too late is a start failure: stopped, killed if it must be, and said in words."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "ignore")}
        ready = "notify"
        start_timeout = 0.3
        stop_timeout = 0.2
        restart = {{ intensity = 1, cap = 60 }}
        """)
    server.expect_error("x")

    why = failure(server)

    assert why == "process 0 not ready in 0.3 s, still there 0.2 s after the stop signal, killed by SIGKILL"
    assert wire.rest()[1:] == ["x term"]
    assert "not ready in 0.3 s" in server.ctl("events").out
    assert server.stop() == 0


def test_more_time_on_request(site: Site) -> None:
    """EXTEND_TIMEOUT_USEC moves the deadline: it is ready long after start_timeout."""
    script = site.write(
        "slow.py",
        "import os, signal, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "say = lambda text: sock.sendto(text, '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n"
        "say(b'EXTEND_TIMEOUT_USEC=60000000')\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.6)\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.pause()\n"
        "say(b'READY=1')\n"
        "signal.pause()\n",
    )
    server = site.up(f"""
        [services.x]
        command = "{sys.executable} -S -E {script}"
        ready = "notify"
        start_timeout = 0.5
        """).ready()

    assert server.service("x")["restarts"] == 0
    assert server.stop() == 0


def test_without_a_condition_it_is_ready_when_it_runs(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"[services.x]\ncommand = {run_command('life.py', wire, 'x')}\n").ready()
    wire.line()

    assert server.service("x")["processes"][0]["why"] == "runs"
    os.kill(server.pids("x")[0], signal.SIGKILL)
    wire.line()
    assert server.stop() == 0
