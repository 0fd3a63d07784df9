"""As pid 1 of a container: signals, exit codes, orphans, output. The pid namespace is unshare's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.test_crashloop import EXIT_LOOP
from tests.process.test_signals import importing
from tests.support.server import Trapeze
from tests.support.site import APPS, Site
from tests.support.wait import until

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _allowed() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _allowed(), reason="no new pid namespaces here")


def contain(site: Site, config: str) -> tuple[Trapeze, int]:
    """Start it as pid 1; return it and its pid as we see it."""
    server = site.up(config, prefix=UNSHARE)
    inner = until(lambda: children(server.pid), what="pid 1")[0]
    return server, inner


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def states(pid: int) -> list[str]:
    """State letters of the children."""
    return [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children(pid)]


def web(wire: object, gate: object) -> str:
    return f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        env = {{ TEST_WIRE = "{wire}", TEST_GATE = "{gate}" }}
        """


def test_term_drains(site: Site) -> None:
    """The request in hand is answered, then exit 0; `docker stop` sees both."""
    wire, gate = site.wire(), site.gate()
    server, inner = contain(site, web(wire, gate))
    server.ready()
    assert server.status()["pid"] == 1
    port = int(server.status()["sockets"][0]["address"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client, client.makefile("rb") as answer:
        client.sendall(b"GET /gate HTTP/1.0\r\n\r\n")
        while wire.line() != "in":
            pass

        os.kill(inner, signal.SIGTERM)

        server.wait_output("stopping, asked by SIGTERM")
        gate.open()
        assert answer.read().endswith(b"through the gate")
    assert server.wait() == 0


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2", "TTIN", "TTOU", "WINCH", "CHLD"])
def test_what_it_hears_does_no_harm(name: str, site: Site) -> None:
    """For pid 1 the kernel drops what has no handler; what has one is obeyed, and it is all there afterwards."""
    server, inner = contain(site, '[services.x]\ncommand = "sleep 3600"\n')
    server.ready()
    heard = {"HUP": "reload, asked by SIGHUP|reload x?", "USR1": "SIGUSR1: ", "USR2": "SIGUSR2|upgrade"}

    os.kill(inner, signal.Signals[f"SIG{name}"])

    if name in heard:
        server.wait_output(heard[name])
    assert server.service("x")["status"] == "RUNNING"
    os.kill(inner, signal.SIGINT)
    assert server.wait() == 0


def test_term_while_it_is_imported(site: Site) -> None:
    """For pid 1 the kernel drops what has no handler: without one from the first line on TERM would be lost."""
    wire, gate = site.wire(), site.gate()
    server = site.up('[services.x]\ncommand = "sleep 3600"\n', prefix=UNSHARE, env=importing(site, wire, gate))
    assert wire.line() == "importing"
    (inner,) = children(server.pid)

    os.kill(inner, signal.SIGTERM)

    assert server.wait(5) == 0


def test_a_second_interrupt_is_fast(site: Site) -> None:
    server, inner = contain(site, "[services.x]\nshell = true\ncommand = \"trap '' TERM; sleep 3600; sleep 3600\"\n")
    server.ready()

    os.kill(inner, signal.SIGQUIT)

    assert server.wait(5) == 0


ORPHANS = """
import os, sys, time
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        os._exit(0) if os.fork() else os._exit(3)
    os.wait()
os.write(1, b"twenty\\n")
import signal; signal.pause()
"""


def test_orphans_are_reaped(site: Site) -> None:
    """Twenty that lost their parents and ended: no zombie stays. There is no keeper: the kernel ends all with pid 1."""
    script = site.write("orphans.py", ORPHANS)
    server, inner = contain(site, f'[services.x]\ncommand = "{sys.executable} -S -E {script}"\n')
    server.ready()
    server.wait_output(r"^x\.0 .*\| twenty")

    until(lambda: "Z" not in states(inner), what="all orphans to be reaped")

    assert len(children(inner)) == 1, "the service, and no keeper"
    os.kill(inner, signal.SIGTERM)
    assert server.wait() == 0
    assert "ERROR" not in server.output


def test_output_of_children_is_ours(site: Site) -> None:
    """stdout to stdout, stderr to stderr, the last words included."""
    command = "echo out; echo err >&2; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done"
    server, inner = contain(site, f'[services.x]\nshell = true\ncommand = "{command}"\n')
    server.ready()
    server.wait_output(r"\| err")

    os.kill(inner, signal.SIGTERM)

    assert server.wait() == 0
    assert [line.partition("| ")[2] for line in server.stdout.splitlines()] == ["out", "bye"]
    assert "| err" in server.stderr


def test_exit_code_tells_the_truth(site: Site) -> None:
    """1 when a service that matters is FAILED, with the reason on the last line; 2 when the file is wrong."""
    server, _ = contain(site, EXIT_LOOP)
    server.expect_error(".*")
    assert server.wait() == 1
    assert server.stderr.splitlines()[-1].startswith("error: bad FAILED")

    wrong = site.up("[services.x]\ncomand = 'x'\n", prefix=UNSHARE)
    wrong.expect_error(".*")
    assert wrong.wait() == 2


def test_killed_pid_1_takes_all_with_it(site: Site) -> None:
    """The kernel does what elsewhere is the keeper's work."""
    wire = site.wire()
    command = f"exec 9>{wire}; (setsid sleep 3600 &) ; echo here >&9; sleep 3600; true"
    server, inner = contain(site, f'[services.x]\nshell = true\ncommand = "{command}"\n')
    assert wire.line() == "here"

    os.kill(inner, signal.SIGKILL)

    assert wire.rest(timeout=5) == []
    assert server.wait() != 0
    server.door.unlink(missing_ok=True)
