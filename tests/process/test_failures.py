"""Workers that die, crash, and crash again: said once and in words, and nothing else suffers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

from tests.support.server import Trapeze
from tests.support.site import APPS, Site, run_command
from tests.support.wait import until


def failed(server: Trapeze, name: str = "x") -> dict[str, Any]:
    """Wait until a service is FAILED."""

    def look() -> dict[str, Any]:
        service = server.service(name) if server.door.exists() else {}
        return service if service.get("status") == "FAILED" else {}

    return until(look, what=f"{name} to be FAILED")


def own_lines(server: Trapeze) -> list[str]:
    """What the supervisor itself said."""
    return [line.partition("| ")[2] for line in server.output.splitlines() if line.startswith("trapeze")]


def test_worker_is_killed(site: Site) -> None:
    """Replaced at once; its death is one line, at INFO, with the signal in words; the other worker is untouched."""
    wire, listener = site.wire(), site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        preload = false
        spare = false
        env = {{ TEST_WIRE = "{wire}" }}
        """,
        listeners=[listener],
    ).ready()
    wire.lines(2)
    first, second = server.pids()

    os.kill(first, signal.SIGKILL)

    (new,) = (int(line.split()[1]) for line in wire.lines(1))
    server.ready()
    assert server.pids() == [new, second]
    assert server.get("/pid").text in (str(new), str(second))
    assert server.service()["restarts"] == 1
    assert [line for line in own_lines(server) if str(first) in line] == [f"web[0] pid {first} killed by SIGKILL"]
    assert server.stop() == 0


def test_each_signal_in_words(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x")}
        restart = {{ intensity = 20, backoff = 0 }}
        """).ready()

    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGRTMIN + 3):
        pid = int(wire.line().split()[2])
        os.kill(pid, number)
        name = signal.Signals(number).name if number < signal.SIGRTMIN else f"signal {int(number)}"
        server.expect_error("x")
        server.wait_output(rf"x\[0\] pid {pid} killed by {name}$")
    wire.line()
    assert server.stop() == 0


CRASHES = """
import os, sys
os.write(os.open(sys.argv[1], os.O_WRONLY), b"up %d\\n" % os.getpid())
open(sys.argv[2]).readline()
for number in range(60):
    print("line", number, flush=True)
print("the end is near", file=sys.stderr, flush=True)
sys.exit(3)
"""


def test_crash_shows_the_last_lines(site: Site) -> None:
    """The status in words at INFO, what it said last at ERROR."""
    wire, gate = site.wire(), site.gate()
    script = site.write("crashes.py", CRASHES)
    server = site.up(f"""
        [services.x]
        command = "python3 -S -E {script} {wire} {gate}"
        """).ready()
    pid = int(wire.line().split()[1])
    server.expect_error(f"last output of x.0. pid {pid}")

    gate.open()

    wire.line()
    lines = own_lines(server)
    at = lines.index(f"x[0] pid {pid} exited with status 3")
    assert lines[at + 1] == f"ERROR last output of x[0] pid {pid}:"
    shown = [line.strip() for line in lines[at + 2 : at + 14]]
    assert "the end is near" in shown
    assert "line 59" in shown
    assert "line 20" not in lines, "not all of it again"
    service = server.ready().service("x")
    assert service["restarts"] == 1
    assert service["last_failure"] in ("process 0 exited with status 3", "")
    events = server.ctl("events", "--json").out
    assert "the end is near" in events
    assert server.stop() == 0


def ticks(pid: int) -> int:
    """Processor time of a process and of the children it has waited for, in clock ticks (10 ms)."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))


def test_crash_loop_of_a_command(site: Site) -> None:
    """FAILED after so many failures, with the reason and the next try; the rest runs, the door answers, no CPU."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "print=cannot reach the broker", "exit=4")}
        restart = {{ intensity = 3, backoff = 0.01, cap = 60 }}
        [services.good]
        command = {run_command("life.py", wire, "good")}
        """)
    server.expect_error("x")

    service = failed(server)

    assert service["why"] == "process 0 exited with status 4"
    assert (service["restarts"], service["ready"], service["processes"]) == (3, 0, [])
    assert service["next_try"] - service["since"] > 50
    assert server.service("good")["status"] == "RUNNING"
    lines = own_lines(server)
    assert sum("last output of x[0]" in line for line in lines) == 1
    assert [line for line in lines if "same error again" in line] == ["ERROR x: same error again (2 times)"]
    assert any(line.startswith("ERROR x FAILED: process 0 exited with status 4") for line in lines)
    assert sum("cannot reach the broker" in line for line in lines) == 1

    # A second of nothing: the door holds the question back, as nothing happens.
    revision, before = server.status()["revision"], ticks(server.pid)
    server.request("GET", f"/events?since={revision}&wait=1")
    assert ticks(server.pid) - before <= 2
    assert server.status()["revision"] == revision
    table = server.ctl("status").out
    assert "FAILED" in table
    assert "next try in" in table
    assert server.stop() == 0
    assert {line.split()[0] for line in wire.rest()} == {"x", "good"}


def test_start_ends_a_crash_loop(site: Site) -> None:
    """Somebody repaired it: no need to wait for the next try."""
    mark = site.directory / "repaired"
    server = site.up(f"""
        [services.x]
        command = "test -e {mark} && exec sleep 3600; exit 9"
        shell = true
        restart = {{ intensity = 2, backoff = 0, cap = 60 }}
        """)
    server.expect_error("x")
    failed(server)
    mark.touch()

    started = server.ctl("start", "x")

    assert started.code == 0, started
    assert server.service("x")["status"] == "RUNNING"
    assert server.stop() == 0


def test_it_heals_by_itself(site: Site) -> None:
    """One try per cap, and the service runs again when its time has come."""
    mark = site.directory / "repaired"
    server = site.up(f"""
        [services.x]
        command = "test -e {mark} && exec sleep 3600; exit 9"
        shell = true
        restart = {{ intensity = 2, backoff = 0, cap = 0.3, healthy = 0.1 }}
        """)
    server.expect_error("x")
    failed(server)

    mark.touch()

    until(lambda: server.service("x")["status"] == "RUNNING", what="the repaired service")
    assert server.stop() == 0


BROKEN = """
import os
os.write(os.open(os.environ["TEST_WIRE"], os.O_WRONLY), b"import\\n")
raise RuntimeError("no database configured")
"""


def broken(site: Site, *flags: str, **fields: str) -> Trapeze:
    listener = site.tcp()
    site.write("broken.py", BROKEN)
    more = "\n".join(f"{name} = {value}" for name, value in fields.items())
    return site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "broken:app"
        workers = 4
        {more}
        [services.side]
        command = "sleep 3600"
        """,
        *flags,
        listeners=[listener],
    )


def test_first_start_fails(site: Site) -> None:
    """Not four workers times five retries: once, exit code 1, and the side service goes too."""
    wire = site.wire()
    server = broken(site, env=f'{{ TEST_WIRE = "{wire}" }}')
    server.expect_error(".*")

    assert server.wait() == 1

    assert len(wire.rest()) == 1
    assert server.output.count("Traceback (most recent call last)") == 1
    assert re.search(r"^error: web: importing broken failed: RuntimeError: no database", server.output, re.M)


def test_keep_going(site: Site) -> None:
    """The web service fails visibly, everything else runs; when the code is repaired a reload brings it up."""
    wire = site.wire()
    restart = "{ intensity = 3, backoff = 0.01, cap = 60 }"
    server = broken(site, "--keep-going", env=f'{{ TEST_WIRE = "{wire}" }}', restart=restart)
    server.expect_error(".*")

    service = failed(server, "web")

    assert "no database configured" in service["why"]
    assert server.service("side")["status"] == "RUNNING"
    assert server.output.count("Traceback (most recent call last)") == 1, server.output
    assert "same error again" in server.output
    site.write("broken.py", (APPS / "web.py").read_text() + "\n\napp = wsgi\n")
    site.write("facts.py", (APPS / "facts.py").read_text())
    reloaded = server.ctl("reload", "web")
    assert reloaded.code == 0, reloaded
    assert server.get("/").text == "hello"
    assert server.stop() == 0


def test_crash_loop_of_a_worker_after_a_good_start(site: Site) -> None:
    """The code on disk broke and the workers die: FAILED with the reason; what still runs serves on."""
    wire, listener = site.wire(), site.tcp()
    site.write("shop.py", (APPS / "web.py").read_text())
    site.write("facts.py", (APPS / "facts.py").read_text())
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "shop:wsgi"
        workers = 2
        preload = false
        spare = false
        env = {{ TEST_WIRE = "{wire}" }}
        restart = {{ intensity = 3, backoff = 0.01, cap = 60 }}
        """,
        listeners=[listener],
    ).ready()
    server.expect_error(".*")
    victim, other = server.pids()
    site.write("shop.py", BROKEN)

    os.kill(victim, signal.SIGKILL)

    service = failed(server, "web")
    assert "no database configured" in service["why"]
    assert "1 of 2 still ready" in service["why"]
    assert server.get("/pid").text == str(other)
    assert server.output.count("Traceback (most recent call last)") == 1
    assert server.stop() == 0


def test_a_worker_that_leaves_with_0_is_replaced(site: Site) -> None:
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", f"wait={gate}", "exit=0")}
        """).ready()
    wire.line()
    gate.open()
    assert wire.line() == "x through"

    assert wire.line().startswith("x start")

    assert server.service("x")["restarts"] == 1
    assert server.stop() == 0


def test_on_failure_policy(site: Site) -> None:
    """Exit 0 is a good end, anything else is tried again."""
    wire = site.wire()
    server = site.up(f"""
        [services.good]
        command = {run_command("life.py", wire, "good", "exit=0")}
        restart = "on-failure"
        [services.bad]
        command = {run_command("life.py", wire, "bad", "exit=1")}
        restart = {{ policy = "on-failure", intensity = 3, backoff = 0, cap = 60 }}
        """)
    server.expect_error("bad")
    failed(server, "bad")

    assert server.service("good")["status"] in ("DONE", "RUNNING")
    assert sorted(line.split()[0] for line in wire.lines(4)) == ["bad", "bad", "bad", "good"]
    assert server.stop() == 0
