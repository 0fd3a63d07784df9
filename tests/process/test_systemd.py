"""Under systemd, played by a datagram socket and inherited descriptors: what it hears from us, and when."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Trapeze, listen_unix
from tests.support.site import APPS, Site, run_command
from tests.support.wait import until


class Manager:
    """Reads the messages, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address[0] == "@" else address)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.said: list[dict[str, str]] = []
        """Everything so far."""
        self.senders: set[int] = set()

    def message(self, timeout: float = 15) -> dict[str, str]:
        """Wait for the next one."""
        self._sock.settimeout(timeout)
        data, control, _, _ = self._sock.recvmsg(4096, 64)
        self.senders.update(int.from_bytes(value[:4], sys.byteorder) for _, _, value in control)
        fields = dict(line.split("=", 1) for line in data.decode().split("\n"))
        self.said.append(fields)
        return fields

    def until(self, name: str, timeout: float = 15) -> dict[str, str]:
        """Wait for the next one that has this field."""
        end = time.monotonic() + timeout
        while name not in (fields := self.message(max(0.1, end - time.monotonic()))):
            pass
        return fields

    def rest(self) -> list[dict[str, str]]:
        """What is there already, or was sent before the end."""
        found = []
        while True:
            try:
                found.append(self.message(0.01))
            except (TimeoutError, BlockingIOError):
                return found

    def names(self) -> list[str]:
        """The first field of each message so far, without the words and the pleas for time."""
        return [first for fields in self.said if (first := next(iter(fields))) not in ("STATUS", "EXTEND_TIMEOUT_USEC")]

    def close(self) -> None:
        self._sock.close()
        if self.address[0] == "/":
            Path(self.address).unlink()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, run_dir: Path) -> Iterator[Manager]:
    manager = Manager(str(run_dir / "notify") if request.param == "path" else f"@trapeze-test-{os.getpid()}")
    yield manager
    manager.close()


def app(site: Site, **fields: object) -> str:
    more = "\n".join(f"{name} = {value}" for name, value in fields.items())
    return f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        workers = 2
        {more}
        """


def test_ready_when_all_are(manager: Manager, site: Site) -> None:
    """Not when the first is; with our pid and a word on each; STOPPING at once; services are told of another socket."""
    wire, gate = site.wire(), site.gate()
    config = f"""{app(site)}
        [services.slow]
        command = {run_command("life.py", wire, "slow", f"wait={gate}", "notify")}
        ready = "notify"
        [services.env]
        command = "echo ${{NOTIFY_SOCKET-none}} ${{WATCHDOG_USEC-none}} ${{WATCHDOG_PID-none}} >{wire}; exec sleep 3600"
        shell = true
        [services.off]
        command = "sleep 3600"
        enabled = false
        """
    server = site.up(config, env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "60000000"})
    lines = wire.lines(2)
    assert "none none none" in lines, lines
    while "web: 2 of 2 ready" not in manager.until("STATUS")["STATUS"]:
        pass
    assert "READY" not in manager.names()

    gate.open()

    ready = manager.until("READY")
    assert (ready["READY"], ready["MAINPID"]) == ("1", str(server.pid))
    assert "web: 2 of 2 ready" in ready["STATUS"]
    assert "slow: 1 of 1 ready" in ready["STATUS"]
    assert manager.senders == {server.pid}
    server.terminate()
    assert manager.until("STOPPING") == {"STOPPING": "1"}
    assert server.wait() == 0
    manager.rest()
    assert manager.names() == ["WATCHDOG", "READY", "STOPPING"], "what was said in all, and once"


def test_more_time_as_long_as_it_starts(manager: Manager, site: Site) -> None:
    """An import may take longer than systemd's patience; when all are ready nothing more is asked for."""
    wire, gate = site.wire(), site.gate()
    env = f'{{ TEST_WIRE = "{wire}", TEST_IMPORT_GATE = "{gate}" }}'
    server = site.up(app(site, env=env, preload="false"), env={"NOTIFY_SOCKET": manager.address})

    assert int(manager.until("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) > 20_000_000
    gate.stay_open()
    manager.until("READY")

    server.ctl("scale", "web", "1")
    server.ctl("scale", "web", "2")
    assert "EXTEND_TIMEOUT_USEC" not in [name for fields in manager.rest() for name in fields]
    assert server.stop() == 0


@pytest.mark.parametrize("asked", ["HUP", "control"])
def test_notify_reload(asked: str, manager: Manager, site: Site) -> None:
    """RELOADING with a time that is not before the signal's, READY when the new ones serve, and after nothing else."""
    server = site.up(app(site), env={"NOTIFY_SOCKET": manager.address})
    manager.until("READY")
    before = set(server.pids())
    asked_at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    if asked == "HUP":
        server.signal(signal.SIGHUP)
    else:
        assert server.ctl("reload").code == 0

    reloading = manager.until("RELOADING")
    assert reloading["RELOADING"] == "1"
    assert asked_at <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.until("READY")["READY"] == "1"
    assert not before & set(server.pids())
    assert server.stop() == 0
    manager.rest()
    assert manager.names() == ["READY", "RELOADING", "READY", "STOPPING"]


def test_reload_that_is_refused(manager: Manager, site: Site) -> None:
    """systemd waits for READY whatever has become of it."""
    server = site.up(app(site), env={"NOTIFY_SOCKET": manager.address})
    manager.until("READY")
    server.expect_error("reload refused|workres")
    site.write("trapeze.toml", app(site, workres=2))

    server.signal(signal.SIGHUP)

    manager.until("RELOADING")
    manager.until("READY")
    assert server.stop() == 0


def test_reload_that_fails(manager: Manager, site: Site) -> None:
    """The old generation serves on, and that is what READY says."""
    site.write("shop.py", (APPS / "web.py").read_text())
    site.write("facts.py", (APPS / "facts.py").read_text())
    config = app(site).replace("web:wsgi", "shop:wsgi").replace(str(APPS), str(site.directory))
    server = site.up(config, env={"NOTIFY_SOCKET": manager.address})
    manager.until("READY")
    server.expect_error(".*")
    site.write("shop.py", "raise RuntimeError('no database')\n")

    server.signal(signal.SIGHUP)

    manager.until("RELOADING")
    assert "web: 2 of 2 ready" in manager.until("READY", timeout=30)["STATUS"]
    assert server.service("web")["generation"] == 1
    assert server.stop() == 0


def test_watchdog(manager: Manager, site: Site) -> None:
    """Twice within its time; not if it is meant for another process."""
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    server = site.up('[services.x]\ncommand = "sleep 3600"\n', env=env)
    times = []
    for _ in range(6):
        manager.until("WATCHDOG")
        times.append(time.monotonic())
    assert times[-1] - times[1] < 4 * 0.2, "systemd would have lost patience"

    server.signal(signal.SIGSTOP)
    manager.rest()
    with pytest.raises(TimeoutError):
        manager.message(0.4)
    server.signal(signal.SIGCONT)
    assert server.stop() == 0
    manager.rest()
    manager.said.clear()

    other = site.up('[services.x]\ncommand = "sleep 3600"\n', env={**env, "WATCHDOG_PID": "1"})
    manager.until("READY")
    assert other.stop() == 0
    manager.rest()
    assert "WATCHDOG" not in manager.names()


def test_a_service_that_fails_is_in_the_status(manager: Manager, site: Site) -> None:
    """READY is not said, unless --keep-going says that this is no reason."""
    config = """
        [services.bad]
        command = "sh -c 'exit 3'"
        ready = "notify"
        restart = { intensity = 1 }
        [services.good]
        command = "sleep 3600"
        """
    server = site.up(config, env={"NOTIFY_SOCKET": manager.address})
    server.expect_error("bad")
    while not manager.until("STATUS")["STATUS"].startswith("bad FAILED: process 0 exited with status 3"):
        pass
    assert server.stop() == 0
    manager.rest()
    assert "READY" not in manager.names()

    server = site.up(config, "--keep-going", env={"NOTIFY_SOCKET": manager.address})
    server.expect_error("bad")
    assert manager.until("READY")["STATUS"].startswith("bad FAILED")
    assert server.stop() == 0


def test_a_manager_that_is_gone(site: Site) -> None:
    """One line, and we run all the same."""
    server = site.up(
        '[services.x]\ncommand = "sleep 3600"\n', env={"NOTIFY_SOCKET": f"{site.directory}/nobody"}
    ).ready()

    assert "WARNING NOTIFY_SOCKET: " in server.output
    assert server.stop() == 0


ACTIVATE = """
import os, sys
count = int(sys.argv[1])
fds = [int(fd) for fd in sys.argv[2 : 2 + count]]
spare = [os.dup(fd) for fd in fds]
for at, fd in enumerate(spare):
    os.dup2(fd, 3 + at)
    os.set_inheritable(3 + at, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=sys.argv[2 + count])
os.execv(sys.argv[3 + count], sys.argv[3 + count :])
"""


def test_socket_activation(manager: Manager, site: Site) -> None:
    """Sockets by name, as systemd-socket-activate passes them: they stay its own, and wait while we are away."""
    script = site.write("activate.py", ACTIVATE)
    tcp, unix = site.tcp(), listen_unix(site.directory / "web.sock")
    prefix = [sys.executable, "-S", "-E", str(script), "2", str(tcp.fd), str(unix.fd), "http:local"]
    config = f"""
        [sockets.web]
        bind = ["systemd:http", "systemd:local"]
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        """
    options = {"listeners": [tcp, unix], "keep_listeners": True, "env": {"NOTIFY_SOCKET": manager.address}}
    try:
        server: Trapeze = site.up(config, prefix=prefix, **options)
        manager.until("READY")
        assert tcp.get("/").text == unix.get("/").text == "hello"
        assert server.stop() == 0
        assert Path(unix.path or "").exists()

        # Nobody is there: who comes now waits in the queue for the next start.
        with socket.create_connection(tcp.sock.getsockname(), timeout=15) as client, client.makefile("rb") as answer:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            server = site.up(config, prefix=prefix, **options)
            assert answer.read().endswith(b"hello")
        manager.until("READY")
        names = until(lambda: {each["name"] for each in server.status()["sockets"]})
        assert names == {"web"}
        assert server.stop() == 0
    finally:
        unix.close(unlink=True)
