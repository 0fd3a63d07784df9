"""`trapeze serve` and every verb of the command line against it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from tests.support.server import Trapeze, run
from tests.support.site import APPS, Site, Wire, run_command
from tests.support.wait import until


@pytest.fixture
def wire(site: Site) -> Wire:
    return site.wire()


@pytest.fixture
def server(site: Site, wire: Wire) -> Trapeze:
    """Two web workers and a side service that says which signals it gets."""
    listener = site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        env = {{ SECRET_KEY = "hunter2" }}
        [services.side]
        command = {run_command("life.py", wire, "side", "signals=USR1,HUP", "print=side speaks")}
        """,
        listeners=[listener],
    ).ready()
    assert wire.line().startswith("side start")
    return server


def test_serve(site: Site) -> None:
    """The shape of the issue: several addresses, TCP and Unix, one app, four workers."""
    one, two, path = site.tcp(), site.tcp(), site.directory / "web.sock"
    site.write("facts.py", (APPS / "facts.py").read_text())
    site.write("web.py", (APPS / "web.py").read_text())
    server = site.serve(
        "web:wsgi", "--workers", "4", "--backend", "gunicorn", "--bind", f"unix:{path}", listeners=[one, two]
    ).ready()

    assert server.get("/", listener=0).text == server.get("/", listener=1).text == "hello"
    assert len(server.pids()) == 4
    assert path.is_socket()
    assert server.stop() == 0
    assert not path.exists()


def test_status_json(server: Trapeze) -> None:
    found = server.ctl("status", "--json").json

    assert {"revision", "pid", "services", "sockets"} <= found.keys()
    assert found["pid"] == server.pid
    web = next(service for service in found["services"] if service["name"] == "web")
    keys = {"name", "status", "why", "since", "want", "ready", "generation", "restarts", "processes"}
    assert keys <= web.keys()
    assert (web["status"], web["why"], web["want"], web["ready"], web["generation"], web["restarts"]) == (
        "RUNNING", "2 of 2 ready", 2, 2, 1, 0,
    )  # fmt: skip
    process = web["processes"][0]
    assert {"id", "index", "pid", "generation", "state", "since", "why"} <= process.keys()
    assert (process["index"], process["generation"], process["state"]) == (0, 1, "READY")
    assert isinstance(web["since"], float)
    (socket,) = found["sockets"]
    assert {"name", "address", "fd"} <= socket.keys()
    assert socket["name"] == "web"


def test_status_for_people(server: Trapeze) -> None:
    text = server.ctl("status").out

    assert text.startswith(f"trapeze: pid {server.pid}, up ")
    assert "RUNNING" in text
    assert all(str(pid) in text for pid in server.pids())
    assert "\x1b" not in text, "no colour into a pipe"


def test_scale(server: Trapeze) -> None:
    assert server.ctl("scale", "web", "4").code == 0
    assert len(server.pids()) == 4
    assert server.ctl("scale", "web", "-3").code == 0
    until(lambda: len(server.pids()) == 1, what="one worker")
    assert server.ctl("scale", "web", "+1").code == 0
    assert server.service()["want"] == 2
    to_nothing = server.ctl("scale", "web", "0")
    assert to_nothing.code == 0, to_nothing
    assert server.service()["status"] == "STOPPED", "it is waited for"
    assert server.ctl("scale", "web", "2").code == 0
    less = server.ctl("scale", "web", "-3")
    assert (less.code, less.err) == (1, "error: web has 2, which cannot be 3 less\n")
    assert server.get("/").text == "hello"
    for bad in ("x", "", "1.5", "--1"):
        assert server.ctl("scale", "web", bad).code == 2


def test_stop_and_start(server: Trapeze, wire: Wire) -> None:
    stopped = server.ctl("stop", "side", "web")

    assert (stopped.code, stopped.out.splitlines()[0].split(" (")[0]) == (0, "side: stopped")
    assert wire.line() == "side stop"
    assert [server.service(name)["status"] for name in ("web", "side")] == ["STOPPED", "STOPPED"]
    assert server.ctl("stop", "side").code == 0, "it is so"
    assert server.service()["generation"] == 1
    started = server.ctl("start", "side", "web")
    assert started.code == 0, started
    assert wire.line().startswith("side start")
    assert server.get("/").text == "hello"
    assert [server.service(name)["generation"] for name in ("web", "side")] == [2, 2], "imported anew"


def test_restart(server: Trapeze, wire: Wire) -> None:
    """All processes, or one by its id; the generation stays."""
    before = server.pids()

    one = server.service()["processes"][1]
    assert server.ctl("restart", "web", "--process", str(one["id"])).code == 0
    until(lambda: len(server.pids()) == 2, what="the old one to go")
    assert server.pids()[0] == before[0]
    assert server.pids()[1] != before[1]

    assert server.ctl("restart", "web").code == 0
    until(lambda: not set(before) & set(server.pids()), what="the old ones to go")
    assert server.service()["generation"] == 1
    assert server.ctl("restart", "side").code == 0
    assert wire.line() == "side stop"
    assert wire.line().startswith("side start")
    gone = server.ctl("restart", "web", "--process", str(one["id"]))
    assert gone.code == 2
    assert f"web has no process #{one['id']}" in gone.err
    listed = re.findall(r"#(\d+) \[\d\]", gone.err)
    assert listed == [str(each["id"]) for each in server.service()["processes"]]


def test_signal(server: Trapeze, wire: Wire) -> None:
    for name in ("USR1", "SIGUSR1", str(int(signal.SIGUSR1)), "usr1"):
        assert server.ctl("signal", "side", name).code == 0
        assert wire.line() == "side got USR1"
    (process,) = server.service("side")["processes"]
    assert server.ctl("signal", "side", "HUP", "--process", str(process["id"])).code == 0
    assert wire.line() == "side got HUP"
    assert server.ctl("signal", "side", "NOSUCH").code == 2
    assert server.ctl("stop", "side").code == 0
    nobody = server.ctl("signal", "side", "HUP")
    assert (nobody.code, nobody.err) == (1, "error: side has no process to send it to\n")


def test_logs(server: Trapeze) -> None:
    assert server.ctl("logs", "side").out.splitlines() == ["side.0 | side speaks"]
    both = server.ctl("logs", "-n", "1").out
    assert "side speaks" in both
    assert "trapeze" in both
    (line,) = server.ctl("logs", "side", "--json").out.splitlines()
    found = json.loads(line)
    assert (found["service"], found["index"], found["stream"], found["text"]) == ("side", 0, "stdout", "side speaks")
    assert server.ctl("logs", "nosuch").code == 2


def test_logs_and_events_are_followed(server: Trapeze, wire: Wire) -> None:
    """They end when the supervisor does, with what it said last."""
    command = [sys.executable, "-m", "trapeze"]
    with (
        subprocess.Popen([*command, "logs", "-f", "side"], env=server.env, cwd=server._cwd, stdout=-1) as logs,
        subprocess.Popen([*command, "events", "-f", "--json"], env=server.env, cwd=server._cwd, stdout=-1) as events,
    ):
        assert logs.stdout
        assert logs.stdout.readline() == b"side.0 | side speaks\n"
        assert events.stdout
        assert json.loads(events.stdout.readline())["revision"] == 1
        assert server.ctl("restart", "side").code == 0
        assert logs.stdout.readline() == b"side.0 | side speaks\n"
        assert server.stop() == 0
        seen = [json.loads(line) for line in events.stdout]
        assert logs.stdout.read() == b""
        assert [logs.wait(10), events.wait(10)] == [0, 0]

    changes = [(each["service"], each["from"], each["to"]) for each in seen]
    assert ("side", "READY", "STOPPING") in changes
    assert seen[-1]["to"] in ("STOPPED", "EXITED"), seen[-5:]
    revisions = [each["revision"] for each in seen]
    assert revisions == sorted(set(revisions))


def test_config_and_check(server: Trapeze, site: Site) -> None:
    """`config` shows what runs or what would; secrets are masked, origins named."""
    live = server.ctl("config", "-c", str(site.file))

    assert live.code == 0, live
    assert "hunter2" not in live.out + live.err
    assert "workers" in live.out
    assert "hunter2" not in server.request("GET", "/config").text
    assert "hunter2" not in server.ctl("events", "--json").out + server.output
    checked = server.ctl("check", "-c", str(site.file))
    assert checked.code == 0, checked


def test_ls(server: Trapeze) -> None:
    rows = server.ctl("ls").out.splitlines()

    assert rows[1].split()[:2] == ["trapeze", str(server.pid)]
    assert rows[1].endswith(str(server.door))


def test_unknown_service(server: Trapeze) -> None:
    for words in (("reload", "wbe"), ("restart", "wbe"), ("scale", "wbe", "1"), ("start", "wbe"), ("stop", "wbe")):
        done = server.ctl(*words)
        assert (done.code, done.out) == (2, ""), words
        assert 'no service "wbe"' in done.err.replace("'", '"')
        assert "web" in done.err, "what there is"
    assert server.ctl("signal", "wbe", "USR1").code == 2


def test_wait_is_over(server: Trapeze, site: Site, wire: Wire) -> None:
    """Exit 4: it goes on all the same."""
    gate = site.gate()
    slow = site.file.read_text().replace("side speaks", f"side speaks' 'slow={gate}")
    site.file.write_text(slow)
    assert server.ctl("reload").code == 0
    assert wire.lines(2)[0] == "side stop"

    done = server.ctl("stop", "side", "--wait", "0.1")

    assert done.code == 4, done
    assert "not done after 0.1 s" in done.err
    assert server.service("side")["status"] == "STOPPING"
    assert wire.line() == "side stop"
    gate.open()
    assert server.ctl("stop", "side").code == 0


def test_shutdown(server: Trapeze) -> None:
    done = server.ctl("shutdown")

    assert done.code == 0, done
    assert server.process.poll() == 0, "it is gone when the command returns"
    assert list(server.runtime_dir.iterdir()) == []


def test_shutdown_that_waits(server: Trapeze, site: Site, wire: Wire) -> None:
    gate = site.gate()
    site.file.write_text(site.file.read_text().replace("side speaks", f"side speaks' 'slow={gate}"))
    assert server.ctl("reload").code == 0
    wire.lines(2)

    assert server.ctl("shutdown", "--wait", "0.2").code == 4
    assert wire.line() == "side stop"
    assert server.ctl("status").code == 0, "the door is open to the last"
    assert server.ctl("shutdown", "--fast").code == 0
    assert server.wait() == 0


def test_nobody_there(site: Site) -> None:
    """Exit 3, and where it looked."""
    environ = {"TRAPEZE_RUNTIME_DIR": str(site.directory), "PATH": "/usr/bin:/bin"}

    for words in (("status",), ("reload",), ("stop", "web"), ("logs",), ("events",), ("shutdown",)):
        done = run(*words, env=environ)
        assert (done.code, done.out) == (3, ""), words
        assert str(site.directory) in done.err


def test_a_faster_server_that_is_there_is_named_once(site: Site) -> None:
    site.write("web.py", (APPS / "web.py").read_text())
    site.write("facts.py", (APPS / "facts.py").read_text())
    site.write("granian.py", '"""Stands in for it: only looked for, never imported."""\n')

    server = site.serve("web:wsgi", listeners=[site.tcp()]).ready()

    line = "web: granian is installed too, and faster for most WSGI apps: "
    line += "`trapeze bench web:wsgi` measures it, --backend granian takes it"
    server.wait_output(re.escape(line))
    run("reload", "-q", env=server.env)
    assert server.stop() == 0
    assert server.output.count("granian is installed") == 1


def test_who_has_chosen_a_server_is_not_told_of_others(site: Site) -> None:
    site.write("web.py", (APPS / "web.py").read_text())
    site.write("facts.py", (APPS / "facts.py").read_text())
    site.write("granian.py", '"""Stands in for it: only looked for, never imported."""\n')

    server = site.serve("web:wsgi", "--backend", "gunicorn", listeners=[site.tcp()]).ready()

    assert server.stop() == 0
    assert "granian" not in server.output
