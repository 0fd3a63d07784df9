"""kill -9 of the supervisor: what the kernel's parent-death signal does not reach is stopped by the keeper.

The control of most of these tests is `test_without_the_keeper_they_stay`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis import ask
from tests.support.server import ROOT, Trapeze
from tests.support.site import APPS, Site, Wire, run_command
from tests.support.wait import until
from trapeze.keeping import stat


def keepers(parent: int) -> list[int]:
    """The keepers among the children of a supervisor."""
    found = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0keeper\0"):
            found.append(int(pid))
    return found


def keeper_of(server: Trapeze) -> int:
    """Wait for the keeper, and until it waits for its supervisor."""
    (pid,) = until(lambda: keepers(server.pid), what="the keeper")
    until(lambda: sleeping_in(pid, "pipe_read"), what="the keeper to listen")
    return pid


def sleeping_in(pid: int, where: str) -> bool:
    """Does it wait in this function of the kernel? (Where the kernel does not tell: does it wait at all?)"""
    told = Path(f"/proc/{pid}/wchan").read_text()
    seen = stat(pid)
    return where in told or (told == "0" and seen is not None and seen.state == b"S")


def killed(server: Trapeze) -> None:
    server.kill()
    assert server.wait() == -signal.SIGKILL
    server.door.unlink(missing_ok=True)


SHELL = "exec 9>{wire}; sleep 3600 & (setsid sleep 3600 &) ; (sleep 3600; true) & echo here >{wire}; sleep 3600; true"
"""Grandchildren in the group, one that has left it, and one of the third degree."""


def shell(site: Site, wire: Wire, **fields: object) -> Trapeze:
    more = "\n".join(f"{name} = {value}" for name, value in fields.items())
    server = site.up(f"[services.x]\nshell = true\ncommand = '{SHELL.format(wire=wire)}'\n{more}\n").ready()
    assert wire.line() == "here"
    return server


def test_grandchildren_go(site: Site) -> None:
    """All that a shell has started, long before its stop_timeout, and the keeper after them."""
    wire = site.wire()
    server = shell(site, wire)
    keeper = keeper_of(server)

    killed(server)

    assert wire.rest(timeout=5) == []
    until(lambda: stat(keeper) is None, what="the keeper to leave", timeout=2)


def test_without_the_keeper_they_stay(site: Site) -> None:
    """The control: the same with the keeper killed before (and the supervisor stopped, or it would start another)."""
    wire = site.wire()
    server = shell(site, wire)
    keeper = keeper_of(server)
    members = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if holds(pid, wire)]
    assert len(members) == 6

    server.signal(signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    killed(server)

    leader = server_child(members)
    until(lambda: stat(leader) is None, what="the shell to go by its parent-death signal")
    assert wire.silent()
    for pid in members:
        if stat(pid) is not None:
            os.kill(pid, signal.SIGKILL)
    wire.rest()


def holds(pid: int, wire: Wire) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == str(wire) for fd in ("9", "3"))
    except OSError:
        return False


def server_child(members: list[int]) -> int:
    """Who leads the others' group."""
    return next(pid for pid in members if os.getpgid(pid) == pid and os.getsid(pid) != pid)


def test_who_ignores_the_signal_is_killed_in_time(site: Site) -> None:
    """At the stop_timeout, not before it; and it has got its signal once, from the kernel."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "ignore", "child")}
        stop_timeout = 1
        """).ready()
    wire.lines(2)
    keeper_of(server)

    began = time.monotonic()
    killed(server)

    assert wire.rest() == ["x term"], "one signal: a second one means 'at once' to many"
    assert 0.9 < time.monotonic() - began < 3


MASTER = """
import os, signal, sys
wire = os.open(sys.argv[1], os.O_WRONLY)
def say(text): os.write(wire, text.encode() + b"\\n")
def leave(*_):
    say("child term")
    os._exit(0)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, leave)
    say("child here")
    while True: signal.pause()
def drain(*_):
    say("master term")
    open(sys.argv[2]).readline()
    say("master leaves")
    os._exit(0)
signal.signal(signal.SIGTERM, drain)
while True: signal.pause()
"""


def test_a_master_that_drains_keeps_its_children(site: Site) -> None:
    """As in every other stop: they are its business as long as it lives, and get the signal when it has gone."""
    wire, gate = site.wire(), site.gate()
    script = site.write("master.py", MASTER)
    server = site.up(f'[services.x]\ncommand = "{sys.executable} -S -E {script} {wire} {gate}"\n').ready()
    assert wire.line() == "child here"
    keeper = keeper_of(server)

    killed(server)

    assert wire.line() == "master term"
    until(lambda: sleeping_in(keeper, "poll"), what="the keeper to have looked")
    gate.open()
    assert wire.rest(timeout=5) == ["master leaves", "child term"]


def test_who_became_another_user_goes(site: Site) -> None:
    """The kernel has forgotten its parent-death signal; the keeper knows by its ids."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    wire = site.wire()
    become = "exec setpriv --reuid=65534 --regid=65534 --clear-groups"
    server = site.up(f"""
        [services.x]
        command = "exec 9>{wire}; echo here >{wire}; {become} {sys.executable} -S -E -c 'import signal; signal.pause()'"
        shell = true
        """).ready()
    assert wire.line() == "here"
    keeper_of(server)
    (process,) = server.pids("x")
    until(lambda: "65534" in Path(f"/proc/{process}/status").read_text().partition("Uid:")[2].split("\n")[0])

    killed(server)

    assert wire.rest(timeout=5) == []


def test_who_cleared_its_death_signal_goes(site: Site) -> None:
    """It lives on although nothing keeps the signal from ending it: so it has not got it."""
    wire = site.wire()
    script = site.write(
        "stays.py",
        "import ctypes, os, signal, sys\n"
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        "os.write(os.open(sys.argv[1], os.O_WRONLY), b'here\\n')\n"
        "signal.pause()\n",
    )
    server = site.up(f'[services.x]\ncommand = "{sys.executable} -S -E {script} {wire}"\n').ready()
    assert wire.line() == "here"
    keeper_of(server)

    killed(server)

    assert wire.rest(timeout=5) == []


def test_redis_saves_and_goes(site: Site) -> None:
    """One TERM: it leaves in order, and removes its socket."""
    wire, path = site.wire(), site.directory / "redis.sock"
    server = site.up(f"""
        [services.redis]
        command = "exec 9>{wire}; exec redis-server --port 0 --unixsocket {path} --dir {site.directory} --save '3600 1'"
        shell = true
        ready = "unix:{path}"
        """).ready()
    keeper_of(server)
    ask(path, "SET", "key", "value")

    killed(server)

    assert wire.rest(timeout=5) == []
    assert (site.directory / "dump.rdb").exists()
    assert not path.exists()


BACKENDS = {
    "gunicorn": "",
    "gunicorn, busy with its only thread": 'worker_class = "sync"',
    "uvicorn": "",
    "chaussette": "",
    "granian": "",
    "chaussette, busy with its only thread": 'backend = "wsgiref"',
}


ASGI = """
import asyncio, web
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = (await asyncio.to_thread(web.answer, scope["path"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


def web(site: Site, wire: Wire, gate: object, case: str, bind: str) -> Trapeze:
    backend = case.partition(",")[0]
    site.write("waits.py", f"import sys; sys.path.append({str(APPS)!r})\n{ASGI}")
    app = "waits:app" if backend == "uvicorn" else "web:wsgi"
    return site.up(f"""
        [sockets.web]
        bind = {bind}
        [services.web]
        app = "{app}"
        backend = "{backend}"
        app_dir = "{site.directory if backend == "uvicorn" else APPS}"
        workers = 2
        options = {{ {BACKENDS[case]} }}
        env = {{ TEST_WIRE = "{wire}", TEST_GATE = "{gate}" }}
        """).ready()


@pytest.mark.parametrize("case", BACKENDS)
def test_the_next_start_binds_at_once(case: str, site: Site) -> None:
    """While the old workers still drain: on the same port, the same Unix path and under the same name."""
    wire, gate, unix = site.wire(), site.gate(), site.directory / "web.sock"
    server = web(site, wire, gate, case, f'["127.0.0.1:0", "unix:{unix}"]')
    port = int(server.status()["sockets"][0]["address"].rpartition(":")[2])
    keeper_of(server)
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client, client.makefile("rb") as answer:
        client.sendall(b"GET /gate HTTP/1.0\r\n\r\n")
        until(lambda: "in" in wire.line(), what="the request to be in a worker")

        server.kill()
        server.wait()
        until(lambda: refused(port) and refused(unix), timeout=1, what="both listeners to be closed")

        second = Trapeze("up", "-c", str(site.file), directory=site.directory)
        site.write("trapeze.toml", site.file.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        second.start()
        try:
            second.ready()
            assert b"hello" in get(port)
            assert b"hello" in get(unix)
            gate.open()
            assert b"through the gate" in answer.read()
        finally:
            assert second.stop() == 0
    wire.rest()


def connected(where: int | Path) -> socket.socket:
    sock = socket.socket(socket.AF_INET if isinstance(where, int) else socket.AF_UNIX)
    try:
        sock.connect(("127.0.0.1", where) if isinstance(where, int) else str(where))
    except BaseException:
        sock.close()
        raise
    return sock


def refused(where: int | Path) -> bool:
    try:
        connected(where).close()
    except ConnectionRefusedError:
        return True
    return False


def get(where: int | Path) -> bytes:
    with connected(where) as sock, sock.makefile("rb") as answer:
        sock.settimeout(15)
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return answer.read()


# ---- the keeper itself


def test_it_is_nobodys_service(site: Site) -> None:
    """Deaf to what is meant for the supervisor, not in any list, without work when nothing happens, gone at the end."""
    server = site.up('[services.x]\ncommand = "sleep 3600"\n').ready()
    keeper = keeper_of(server)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(keeper, signum)
    assert [service["name"] for service in server.status()["services"]] == ["x"]
    assert str(keeper) not in server.ctl("status").out

    until(lambda: sleeping_in(keeper, "pipe_read"))
    before = wakes(keeper)
    server.request("GET", f"/events?since={server.status()['revision']}&wait=1")
    assert wakes(keeper) == before

    assert server.stop() == 0
    assert stat(keeper) is None
    assert "orphan" not in server.output


def wakes(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text().partition("voluntary_ctxt_switches:")[2]


def test_another_one_takes_its_place(site: Site) -> None:
    """It is told of all that there are; that the first one died is no error."""
    wire = site.wire()
    server = shell(site, wire)
    first = keeper_of(server)

    os.kill(first, signal.SIGKILL)

    server.wait_output(rf"keeper pid {first} killed by SIGKILL; another one takes its place")
    second = until(lambda: [pid for pid in keepers(server.pid) if pid != first], what="the next keeper")
    assert server.ctl("scale", "x", "2").code == 0
    assert wire.line() == "here"
    until(lambda: sleeping_in(second[0], "pipe_read"))
    killed(server)
    assert wire.rest(timeout=5) == []


def test_it_comes_after_the_workers(site: Site) -> None:
    """It must not lengthen the start: it is forked when the door opens."""
    server = site.up('[services.x]\ncommand = "sleep 3600"\n').ready()
    keeper = keeper_of(server)
    (worker,) = server.pids("x")

    assert stat(keeper).start >= stat(worker).start  # type: ignore[union-attr]
    assert server.stop() == 0


# ---- its program, told lies


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes of one group that is theirs."""
    leader = subprocess.Popen(["sleep", "3600"], process_group=0)
    member = subprocess.Popen(["sleep", "3600"], process_group=leader.pid)
    yield [leader, member]
    for each in (leader, member):
        each.kill()
        each.wait()


def run_keeper(text: str, mark: str = "TRAPEZE_SUPERVISOR=nobody") -> None:
    """Run the program until it ends by itself."""
    program = ROOT / "trapeze" / "keeping.py"
    command = [sys.executable, "-I", "-S", str(program), mark]
    subprocess.run(command, input=text.encode(), timeout=20, check=True)


def line(pid: int, *, later: int = 0, whole: bool = True) -> str:
    seen = stat(pid)
    assert seen is not None
    return f"+ {pid} {seen.start + later} 15 20 {int(whole)} {os.geteuid()} {os.getegid()}\n"


def test_a_pid_that_was_reused_is_left_alone(sleepers: list[subprocess.Popen[bytes]]) -> None:
    """Same number, another start: neither it nor its group; control: with the right start both go."""
    leader, member = sleepers

    run_keeper(line(leader.pid, later=1))
    assert (leader.poll(), member.poll()) == (None, None)

    run_keeper(line(leader.pid))
    assert (leader.wait(5), member.wait(5)) == (-signal.SIGTERM, -signal.SIGTERM)


def test_only_the_leader_without_kill_group(sleepers: list[subprocess.Popen[bytes]]) -> None:
    leader, member = sleepers

    run_keeper(line(leader.pid, whole=False))

    assert leader.wait(5) == -signal.SIGTERM
    assert member.poll() is None


def test_after_bye_it_does_nothing(sleepers: list[subprocess.Popen[bytes]]) -> None:
    leader, member = sleepers

    run_keeper(line(leader.pid) + "bye\n")
    run_keeper(line(leader.pid) + f"- {leader.pid}\n")

    assert (leader.poll(), member.poll()) == (None, None)


def test_who_bears_the_mark_goes() -> None:
    """Whatever its group and parent; control: another mark."""
    with subprocess.Popen(["sleep", "3600"], env={"TRAPEZE_SUPERVISOR": "7.7"}, start_new_session=True) as marked:
        run_keeper("", mark="TRAPEZE_SUPERVISOR=7.77")
        assert marked.poll() is None

        run_keeper("", mark="TRAPEZE_SUPERVISOR=7.7")
        assert marked.wait(5) == -signal.SIGTERM
