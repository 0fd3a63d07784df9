"""`trapeze up`: several services, in the right order, up and down."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.support.nginx import program
from tests.support.redis import ask
from tests.support.site import APPS, Site, Wire, run_command
from tests.support.wait import until


def life(wire: Wire, name: str, *options: object) -> str:
    return run_command("life.py", wire, name, *options)


def test_starts_in_order_of_readiness_and_stops_in_reverse(site: Site) -> None:
    """`a` is not ready before the gate opens; `b` and the web app wait for it, and leave before it does."""
    wire, gate, listener = site.wire(), site.gate(), site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        env = {{ TEST_WIRE = "{wire}" }}
        after = ["b"]
        [services.b]
        command = {life(wire, "b", "notify")}
        ready = "notify"
        after = ["a"]
        [services.a]
        command = {life(wire, "a", f"wait={gate}", "notify")}
        ready = "notify"
        [services.c]
        command = {life(wire, "c")}
        """,
        listeners=[listener],
    )
    assert {word.split()[0] for word in wire.lines(2)} == {"a", "c"}
    assert server.service("b")["why"] == "waiting for a"
    assert server.service("web")["why"] == "waiting for b"
    assert server.service("web")["processes"] == []

    gate.open()

    assert wire.line() == "a through"
    assert wire.line().startswith("b start ")
    assert wire.line().startswith("worker ")
    server.ready()
    assert server.get("/").text == "hello"
    assert server.stop() == 0
    ends = wire.rest()
    assert set(ends) == {"a stop", "b stop", "c stop"}
    assert ends.index("b stop") < ends.index("a stop")
    # The web service went before all others; `after` orders only what it names.
    said = server.output
    assert said.index("web[0] pid") < said.index("b[0] pid") < said.index("a[0] pid")


def test_stop_waits_for_each_before_the_next(site: Site) -> None:
    """While the one that came last is still leaving, the one it came after has not been asked to."""
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.first]
        command = {life(wire, "first")}
        [services.second]
        command = {life(wire, "second", f"slow={gate}")}
        after = ["first"]
        """)
    wire.lines(2)
    server.ready().terminate()

    assert wire.line() == "second stop"
    until(lambda: server.status()["stopping"], what="the stop")
    status = server.status()
    assert [(each["name"], each["status"]) for each in status["services"]] == [
        ("first", "RUNNING"),
        ("second", "STOPPING"),
    ]
    gate.open()

    assert wire.line() == "first stop"
    assert server.wait() == 0


def test_stop_of_what_comes_after_a_web_service(site: Site) -> None:
    """Such as a proxy: it stands in front of it, so it leaves first; what comes after that one, before it."""
    wire, listener = site.wire(), site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        [services.proxy]
        command = {life(wire, "proxy")}
        after = ["web"]
        [services.agent]
        command = {life(wire, "agent")}
        after = ["proxy"]
        [services.other]
        command = {life(wire, "other")}
        """,
        listeners=[listener],
    ).ready()
    wire.lines(3)

    assert server.stop() == 0

    ends = wire.rest()
    assert sorted(ends) == ["agent stop", "other stop", "proxy stop"]
    assert ends.index("agent stop") < ends.index("proxy stop") < ends.index("other stop")
    said = server.output
    assert said.index("proxy[0] pid") < said.index("web[0] pid") < said.index("other[0] pid")


def test_comes_after_a_task(site: Site) -> None:
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.task]
        command = {life(wire, "task", f"wait={gate}", "exit=0")}
        restart = "never"
        [services.jobs]
        command = {life(wire, "jobs")}
        after = ["task"]
        """)
    assert wire.line().startswith("task start ")
    assert server.service("jobs")["why"] == "waiting for task"

    gate.open()

    assert wire.line() == "task through"
    assert wire.line().startswith("jobs start ")
    server.ready()
    task = server.service("task")
    assert (task["status"], task["why"], task["processes"]) == ("DONE", "exited 0", [])
    assert server.stop() == 0


def test_task_that_fails_ends_the_start(site: Site) -> None:
    """What comes after it could never start: `up` ends with 1 and says why."""
    wire = site.wire()
    server = site.up(f"""
        [services.task]
        command = {life(wire, "task", "print=no such table", "exit=4")}
        restart = "never"
        [services.jobs]
        command = {life(wire, "jobs")}
        after = ["task"]
        """)
    server.expect_error("task: process 0 exited with status 4")

    assert server.wait() == 1
    assert [line.split()[0] for line in wire.rest()] == ["task"]
    assert "no such table" in server.output


def test_task_that_fails_and_nobody_waits_for(site: Site) -> None:
    """Beside a service that runs, a failed task is a failed task: shown, not tried again, the rest goes on."""
    wire = site.wire()
    server = site.up(f"""
        [services.task]
        command = {life(wire, "task", "exit=4")}
        restart = "never"
        [services.jobs]
        command = {life(wire, "jobs")}
        """)
    server.expect_error("task")
    wire.lines(2)

    until(lambda: server.door.exists() and server.service("task")["status"] == "FAILED", what="the failure")

    assert server.service("task")["why"] == "process 0 exited with status 4"
    assert server.service("jobs")["status"] == "RUNNING"
    assert server.stop() == 0
    assert wire.rest() == ["jobs stop"]


def test_pre_start_runs_in_order_before_the_first_worker(site: Site) -> None:
    wire, gate, listener = site.wire(), site.gate(), site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        env = {{ TEST_WIRE = "{wire}" }}
        pre_start = [
            {life(wire, "one", f"wait={gate}", "exit=0")},
            {life(wire, "two", "exit=0")},
        ]
        """,
        listeners=[listener],
    )
    assert wire.line().startswith("one start")
    service = server.service("web")
    assert service["status"] == "STARTING"
    assert service["why"].startswith("waiting for pre_start 1 of 2: ")

    gate.open()

    assert wire.line() == "one through"
    assert [line.split()[0] for line in wire.lines(2)] == ["two", "worker"]
    server.ready()
    assert server.ctl("restart", "web").code == 0
    # A restart is no deploy: no pre_start, no import.
    gate.stay_open()
    assert server.ctl("reload", "web").code == 0
    assert [line.split()[0] for line in wire.lines(4)] == ["one", "one", "two", "worker"]
    assert server.stop() == 0


@pytest.mark.parametrize("step", ["first", "second"])
def test_pre_start_that_fails(step: str, site: Site) -> None:
    wire, listener = site.wire(), site.tcp()
    broken = life(wire, "broken", "print=migration 0042 is broken", "exit=7")
    steps = {"first": f"{broken}, {life(wire, 'two', 'exit=0')}", "second": f"'true', {broken}"}
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        env = {{ TEST_WIRE = "{wire}" }}
        pre_start = [{steps[step]}]
        [services.side]
        command = {life(wire, "side")}
        """,
        listeners=[listener],
    )
    number = {"first": 1, "second": 2}[step]
    server.expect_error(f"web: pre_start {number} exited with status 7")

    assert server.wait() == 1
    assert {line.split()[0] for line in wire.rest()} <= {"broken", "side"}, "nothing came after it, and nothing is left"
    assert server.output.count("migration 0042 is broken") == 1, server.output


def test_disabled_service_is_started_later(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.main]
        command = {life(wire, "main")}
        [services.extra]
        command = {life(wire, "extra")}
        enabled = false
        after = ["main"]
        """)
    assert wire.line().startswith("main start")
    server.ready()
    assert (server.service("extra")["status"], server.service("extra")["why"]) == (
        "STOPPED",
        "not enabled in the configuration",
    )

    started = server.ctl("start", "extra")

    assert started.code == 0, started
    assert wire.line().startswith("extra start")
    assert server.ctl("stop", "extra").code == 0
    assert wire.line() == "extra stop"
    assert server.stop() == 0


def test_several_processes_of_a_side_service(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.jobs]
        command = {life(wire, "jobs-{index}")}
        workers = 3
        """).ready()

    started = [line.split() for line in wire.lines(3)]

    assert {word[0] for word in started} == {"jobs-0", "jobs-1", "jobs-2"}
    assert [int(line[2]) for line in sorted(started)] == server.pids("jobs")
    assert server.stop() == 0
    assert set(wire.rest()) == {"jobs-0 stop", "jobs-1 stop", "jobs-2 stop"}


def test_redis_says_when_it_is_ready(site: Site) -> None:
    """`--supervised systemd`: READY=1 comes by NOTIFY_SOCKET, and STATUS= is shown."""
    path = site.directory / "redis.sock"
    wire = site.wire()
    site.write("client.py", f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r})\n")
    server = site.up(f"""
        [services.redis]
        command = "{program("redis-server")} --port 0 --unixsocket {path} --save '' --supervised systemd"
        ready = "notify"
        [services.client]
        command = "{sys.executable} client.py"
        after = ["redis"]
        restart = "never"
        [services.jobs]
        command = {life(wire, "jobs")}
        after = ["client"]
        """).ready()

    assert ask(path, "PING") == "PONG"
    process = server.service("redis")["processes"][0]
    assert (process["state"], process["status"]) == ("READY", "Ready to accept connections")
    assert server.service("client")["status"] == "DONE", "it could connect at once"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not path.exists()
