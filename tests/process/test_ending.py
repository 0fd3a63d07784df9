"""How a process is asked to leave, and what happens when it does not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.site import Site, run_command
from tests.support.wait import until


def test_stop_signal(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "signals=QUIT", "ignore")}
        stop_signal = "QUIT"
        stop_timeout = 0.2
        """)
    wire.line()
    server.ready()

    assert server.stop() == 0
    assert wire.rest() == ["x got QUIT"]


def test_process_that_is_stopped_can_be_stopped(site: Site) -> None:
    """SIGSTOP holds all other signals back but SIGKILL: it is let go on, so that it can leave in its own way."""
    wire = site.wire()
    server = site.up(f"[services.x]\ncommand = {run_command('life.py', wire, 'x')}\n").ready()
    wire.line()
    (pid,) = server.pids("x")
    os.kill(pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="the stop")

    assert server.ctl("stop", "x", "--wait", "10").code == 0

    assert wire.rest() == ["x stop"]
    assert server.stop() == 0


def test_stop_timeout_is_followed_by_kill(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", "ignore")}
        stop_timeout = 0.2
        """)
    wire.line()
    server.ready()

    stopped = server.ctl("stop", "x")

    assert stopped.code == 0, stopped
    assert wire.rest() == ["x term"]
    assert "still there 0.2 s after the stop signal" in stopped.err
    assert server.stop() == 0
    assert "killed by SIGKILL" in server.output


def test_several_are_stopped_at_once(site: Site) -> None:
    """Neither waits until the other has ended, which takes longer than anybody here waits."""
    wire = site.wire()
    sections = [
        f"[services.{name}]\ncommand = {run_command('life.py', wire, name, 'ignore')}\nstop_timeout = 60\n"
        for name in ("x", "y")
    ]
    server = site.up("\n".join(sections))
    wire.lines(2)
    server.ready()

    assert server.ctl("stop", "x", "y", "--wait", "0.2").code == 4

    assert sorted(wire.lines(2)) == ["x term", "y term"]
    server.signal(signal.SIGQUIT)
    assert server.wait() == 0


@pytest.mark.parametrize("kill_group", [True, False])
@pytest.mark.parametrize("how", ["child", "orphan"])
def test_the_group_goes_with_its_leader(how: str, kill_group: bool, site: Site) -> None:
    """Grandchildren that ignore SIGTERM do not outlive the service; with kill_group = false (the control) they do."""
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", how)}
        kill_group = {"true" if kill_group else "false"}
        """)
    child = next(line for line in wire.lines(2) if line.startswith("x child"))
    server.ready()

    assert server.ctl("stop", "x").code == 0

    if kill_group:
        assert wire.rest() == ["x stop"], "the end of file: all have gone"
    else:
        assert wire.line() == "x stop"
        assert wire.silent()
        os.kill(int(child.split()[2]), signal.SIGKILL)
        assert wire.rest() == []
    assert server.stop() == 0


def test_program_that_does_not_exist_any_more(site: Site) -> None:
    """Preflight finds what is missing; what goes missing later is a start that failed, with the reason in words."""
    script = site.write("program", "#!/bin/sh\nexec sleep 3600\n")
    script.chmod(0o755)
    server = site.up(f"""
        [services.x]
        command = "{script}"
        restart = {{ intensity = 1, cap = 60 }}
        """).ready()
    server.expect_error("x")
    script.unlink()
    (pid,) = server.pids("x")

    os.kill(pid, signal.SIGKILL)

    until(lambda: server.service("x")["status"] == "FAILED", what="the failure")
    assert server.service("x")["next_try"]
    assert server.stop() == 0
