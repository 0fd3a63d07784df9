"""Whoever dies first, nothing is left: the supervisor killed, workers killed, grandchildren without parents."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import Trapeze
from tests.support.site import APPS, Site, Wire, run_command
from tests.support.wait import until


def everything(site: Site, wire: Wire, web: str, unix: Path) -> Trapeze:
    """A supervisor with one service of each kind: apps of both backends, commands with and without sockets."""
    return site.up(f"""
        [sockets.web]
        bind = "{web}"
        [sockets.unix]
        bind = "unix:{unix}"
        [services.wsgi]
        app = "web:wsgi"
        app_dir = "{APPS}"
        socket = ["web", "unix"]
        env = {{ TEST_WIRE = "{wire}" }}
        [services.asgi]
        app = "web:asgi"
        app_dir = "{APPS}"
        socket = ["unix", "web"]
        env = {{ TEST_WIRE = "{wire}" }}
        [services.plain]
        command = {run_command("life.py", wire, "plain")}
        [services.shim]
        command = {run_command("life.py", wire, "shim")}
        socket = ["web", "unix"]
        [services.shell]
        command = 'echo shell >{wire}; exec 9>{wire}; exec sleep 3600'
        shell = true
        """)


def port_of(server: Trapeze) -> int:
    (address,) = (each["address"] for each in server.status()["sockets"] if each["name"] == "web")
    return int(address.rpartition(":")[2])


def test_supervisor_killed(site: Site) -> None:
    """All go by their parent-death signal, nobody listens any more, and the next start on the same addresses works."""
    wire, unix = site.wire(), site.directory / "web.sock"
    server = everything(site, wire, "127.0.0.1:0", unix).ready()
    started = wire.lines(5)
    port = port_of(server)
    door = server.door.stat().st_ino

    server.kill()
    assert server.wait() == -signal.SIGKILL

    assert set(wire.rest()) == {"plain stop", "shim stop"}, f"the end of file: all have gone of {started}"
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))
    assert unix.exists(), "nobody could remove it: the next start has to cope"
    assert server.door.stat().st_ino == door

    site.write("trapeze.toml", site.file.read_text().replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
    wire.reopen()
    second = Trapeze("up", "-c", str(site.file), directory=site.directory).start()
    try:
        second.ready()
        assert port_of(second) == port
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answer:
            client.connect(str(unix))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert answer.read().endswith(b"hello")
    finally:
        assert second.stop() == 0
    assert not unix.exists()
    assert not server.door.exists()


def test_supervisor_killed_control(site: Site) -> None:
    """The control: what clears its parent-death signal stays, and is seen by the wire and by the audit's eyes."""
    wire = site.wire()
    script = site.write(
        "stays.py",
        "import ctypes, os, signal, sys\n"
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "wire = os.open(sys.argv[1], os.O_WRONLY)\n"
        "os.write(wire, b'%d\\n' % os.getpid())\n"
        "signal.pause()\n",
    )
    server = site.up(f'[services.x]\ncommand = "{sys.executable} -S -E {script} {wire}"\n').ready()
    pid = int(wire.line())

    keeper = until(lambda: [each for each in children(server.pid) if _is_keeper(each)], what="the keeper")[0]
    server.signal(signal.SIGSTOP)  # or it would start another keeper
    os.kill(keeper, signal.SIGKILL)
    server.kill()
    server.wait()

    assert wire.silent()
    os.kill(pid, signal.SIGKILL)
    assert wire.rest() == []
    server.door.unlink()


def _is_keeper(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0keeper\0")


def test_supervisor_killed_while_starting(site: Site) -> None:
    """Workers in the middle of their import go too."""
    wire, gate, listener = site.wire(), site.gate(), site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        env = {{ TEST_WIRE = "{wire}", TEST_IMPORT_GATE = "{gate}" }}
        """,
        listeners=[listener],
    )
    wire.line()

    server.kill()
    server.wait()

    assert wire.rest() == []
    server.door.unlink()


def test_worker_without_supervisor_finishes_its_request(site: Site) -> None:
    """It closes the listener at once, so that the next start can bind, and answers what it was working on."""
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        env = {{ TEST_WIRE = "{wire}", TEST_GATE = "{gate}" }}
        """).ready()
    port = port_of(server)
    wire.line()
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client, client.makefile("rb") as answer:
        client.sendall(b"GET /gate HTTP/1.0\r\n\r\n")
        assert wire.line() == "in"

        server.kill()
        server.wait()

        def closed() -> bool:
            with socket.socket() as other:
                return other.connect_ex(("127.0.0.1", port)) != 0

        until(closed, what="the listener to be closed")
        gate.open()
        assert answer.read().endswith(b"through the gate")
    assert wire.rest() == []
    server.door.unlink()


ORPHANS = """
import os, signal, sys
for number in range(5):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()                         # not of the group that dies with the service
            while os.getppid() == int(sys.argv[3]):
                pass
            os.write(os.open(sys.argv[1], os.O_WRONLY), b'%d %d\\n' % (os.getpid(), os.getppid()))
            os._exit(0) if sys.argv[2] == 'exit' else signal.pause()
        os._exit(0)
    os.wait()
signal.pause()
"""


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def zombies(parent: int) -> list[int]:
    """Children of `parent` that nobody has reaped."""
    found = []
    for pid in children(parent):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            found.append(pid)
    return found


def test_orphaned_grandchildren_are_reaped(site: Site) -> None:
    """They come to the supervisor, which is their reaper, and are no zombies when they end."""
    wire = site.wire()
    script = site.write("orphans.py", ORPHANS.replace("int(sys.argv[3])", "-1"))
    server = site.up(f'[services.x]\ncommand = "{sys.executable} -S -E {script} {wire} stay"\n').ready()
    found = [line.split() for line in wire.lines(5)]
    pids = [int(pid) for pid, _ in found]
    parents = until(lambda: {_parent(pid) for pid in pids} == {server.pid} and {server.pid})
    assert parents == {server.pid}

    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="the orphans to be reaped")
    assert zombies(server.pid) == []
    assert server.service("x")["status"] == "RUNNING"
    assert server.stop() == 0


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_orphans_are_reaped_control(site: Site) -> None:
    """The control: `zombies` sees one where nobody reaps."""
    read, write = os.pipe()
    script = "import os, signal\nif os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n"
    script += "os.write(1, b'x'); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", script], stdout=write) as lazy:
        os.close(write)
        os.read(read, 1)
        os.close(read)
        assert len(zombies(lazy.pid)) == 1
        lazy.kill()


def _can_be_pid_1() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    done = subprocess.run([unshare, "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    return done.returncode == 0


def test_as_pid_1(site: Site) -> None:
    """In a container: it reaps what is orphaned, and answers signals that pid 1 would otherwise ignore."""
    if not _can_be_pid_1():
        pytest.skip("no new pid namespaces here")
    wire = site.wire()
    script = site.write("orphans.py", ORPHANS.replace("int(sys.argv[3])", "-1"))
    ending = f"[services.x]\ncommand = '{sys.executable} -S -E {script} {wire} exit'\n"
    server = site.up(ending, prefix=["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"], keep_listeners=True)
    wire.lines(5)
    assert server.ready().status()["pid"] == 1
    inner = int(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0])

    until(lambda: not zombies(inner), what="all orphans to be reaped")

    os.kill(inner, signal.SIGTERM)
    assert server.wait() == 0
    assert wire.rest() == []


def test_what_a_dead_worker_left_in_its_group_goes_too(site: Site) -> None:
    """kill -9 of a worker: its own children, in its group, go with it, before the replacement comes."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "child")}
        """)
    lines = dict(line.split()[1:] for line in wire.lines(2))
    server.ready()

    os.kill(int(lines["start"]), signal.SIGKILL)

    again = dict(line.split()[1:] for line in wire.lines(2))
    assert again.keys() == {"start", "child"}
    until(lambda: not Path(f"/proc/{lines['child']}").exists(), what="the old child to go")
    assert server.stop() == 0


def test_who_made_a_session_of_its_own_ends_with_us(site: Site) -> None:
    """A grandchild that left the group outlives its parent, but not the supervisor that adopted it."""
    wire = site.wire()
    server = site.up(f"""
        [services.escape]
        command = "setsid sh -c 'echo away >{wire}; exec 9>{wire}; exec sleep 3600' & sleep 0; exec sleep 3600"
        shell = true
        """).ready()
    assert wire.lines(1) == ["away"]

    assert server.stop() == 0

    assert list(wire.rest()) == []
    assert "is still there: SIGTERM" in server.output
