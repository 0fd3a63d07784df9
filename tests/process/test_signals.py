"""What signals to the supervisor do, at every moment of its life."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.server import Listener, Trapeze
from tests.support.site import APPS, Gate, Site, Wire, run_command
from tests.support.wait import until


class Web:
    """A web service whose requests wait where the test says so."""

    def __init__(self, site: Site, backend: str = "gunicorn", workers: int = 1, **fields: str) -> None:
        self.wire: Wire = site.wire()
        self.gate: Gate = site.gate()
        self.listener: Listener = site.tcp()
        app = "web:asgi" if backend == "uvicorn" else "web:wsgi"
        more = "\n".join(f"{name} = {value}" for name, value in fields.items())
        self.server: Trapeze = site.up(
            f"""
            [sockets.web]
            bind = "{self.listener.bind}"
            [services.web]
            app = "{app}"
            app_dir = "{APPS}"
            backend = "{backend}"
            workers = {workers}
            env = {{ TEST_WIRE = "{self.wire}", TEST_GATE = "{self.gate}" }}
            {more}
            """,
            listeners=[self.listener],
        ).ready()
        self.wire.line()

    def request(self) -> Request:
        """Begin a request; it is inside the app when this returns."""
        request = Request(self.listener)
        assert self.wire.line() == "in"
        return request


class Request(threading.Thread):
    """One request that takes as long as the gate is shut."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.listener = listener
        self.text = ""
        self.start()

    def run(self) -> None:
        try:
            self.text = self.listener.get("/gate").text
        except httpx.TransportError as error:
            self.text = type(error).__name__

    def answer(self) -> str:
        """Wait for the answer."""
        self.join(20)
        assert not self.is_alive()
        return self.text


BACKENDS = ["gunicorn", "uvicorn"]


@pytest.mark.parametrize("name", ["TERM", "INT"])
@pytest.mark.parametrize("backend", ["gunicorn"])
def test_graceful(name: str, backend: str, site: Site) -> None:
    """A request that is inside the app is answered, whatever time it takes."""
    web = Web(site, backend)
    request = web.request()

    web.server.signal(signal.Signals[f"SIG{name}"])

    until(lambda: web.server.status()["stopping"], what="the stop")
    assert web.server.process.poll() is None
    web.gate.open()
    assert request.answer() == "through the gate"
    assert web.server.wait() == 0
    assert f"stopping, asked by SIG{name}" in web.server.output
    assert "SIGKILL" not in web.server.output


def test_several_signals_at_once_are_one_wish(site: Site) -> None:
    """timeout(1), make and a terminal send it to us and to our group: that is no impatience."""
    web = Web(site)
    request = web.request()

    for _ in range(3):
        web.server.signal(signal.SIGINT)

    until(lambda: web.server.status()["stopping"], what="the stop")
    web.gate.open()
    assert request.answer() == "through the gate"
    assert web.server.wait() == 0


def test_second_interrupt_is_fast(site: Site) -> None:
    web = Web(site)
    request = web.request()

    def again() -> bool:
        web.server.signal(signal.SIGINT)
        return web.server.process.poll() is not None

    until(again, what="the fast stop")

    assert web.server.wait() == 0
    assert "stopping fast, asked by SIGINT" in web.server.output
    assert request.answer() in ("RemoteProtocolError", "ReadError")


def test_quit_is_fast(site: Site) -> None:
    web = Web(site)
    request = web.request()

    web.server.signal(signal.SIGQUIT)

    assert web.server.wait(5) == 0
    assert request.answer() in ("RemoteProtocolError", "ReadError")
    assert web.wire.rest() == []


def test_fast_stop_of_what_ignores_everything(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"[services.x]\ncommand = {run_command('life.py', wire, 'x', 'ignore', 'child')}\n").ready()
    wire.lines(2)

    server.signal(signal.SIGQUIT)

    assert server.wait(5) == 0
    assert wire.rest() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_hangup_reloads(backend: str, site: Site) -> None:
    web = Web(site, backend, workers=2)
    before = web.server.pids()

    web.server.signal(signal.SIGHUP)

    until(lambda: web.server.service()["generation"] == 2, what="the new generation")
    web.server.ready()
    until(lambda: not set(before) & set(web.server.pids()), what="the old ones to go")
    assert web.server.get("/generation").text == "2"
    assert "reload web, asked by SIGHUP" in web.server.output
    assert web.server.stop() == 0


def test_hangup_with_a_broken_file_changes_nothing(site: Site) -> None:
    web = Web(site)
    before = web.server.pids()
    site.write("trapeze.toml", "[services.web\n")
    web.server.expect_error("reload refused")

    web.server.signal(signal.SIGHUP)

    web.server.wait_output(r"ERROR reload refused, nothing changed: .*line 1")
    assert web.server.pids() == before
    assert web.server.service()["generation"] == 1
    assert web.server.stop() == 0


def test_one_worker_more_or_less(site: Site) -> None:
    """TTIN and TTOU are for the web services, and never take the last worker away."""
    wire = site.wire()
    listener = site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        [services.side]
        command = {run_command("life.py", wire, "side")}
        """,
        listeners=[listener],
    ).ready()

    def scaled(count: int) -> bool:
        service = server.service()
        return (service["want"], service["ready"], len(service["processes"])) == (count, count, count)

    server.signal(signal.SIGTTIN)
    until(lambda: scaled(2), what="the second worker")
    server.signal(signal.SIGTTOU)
    until(lambda: scaled(1), what="one worker")
    server.signal(signal.SIGTTOU)
    server.signal(signal.SIGUSR1)  # a signal of which something is said: the one before has been seen
    server.wait_output("SIGUSR1: ")
    assert scaled(1)
    assert server.service("side")["want"] == 1
    assert server.stop() == 0


@pytest.mark.parametrize("name", ["USR1"])
def test_others_do_no_harm(name: str, site: Site) -> None:
    server = site.up('[services.x]\ncommand = "sleep 3600"\n').ready()

    server.signal(signal.Signals[f"SIG{name}"])

    server.wait_output(f"SIG{name}: ")
    assert server.service("x")["status"] == "RUNNING"
    assert server.stop() == 0


# -- before it is up --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_while_the_app_is_imported(name: str, site: Site) -> None:
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

    server.signal(signal.Signals[f"SIG{name}"])

    assert server.wait(5) == 0
    assert wire.rest() == []
    assert "SIGKILL" not in server.output


def test_while_pre_start_runs(site: Site) -> None:
    """Obeyed at once; neither the next command nor the service is started."""
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x")}
        pre_start = [
            {run_command("life.py", wire, "one", f"wait={gate}")},
            {run_command("life.py", wire, "two", "exit=0")},
        ]
        """)
    assert wire.line().startswith("one start")

    server.terminate()

    assert server.wait(5) == 0
    assert wire.rest() == ["one stop"]


def test_while_something_is_waited_for(site: Site) -> None:
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.first]
        command = {run_command("life.py", wire, "first", f"wait={gate}", "notify")}
        ready = "notify"
        [services.second]
        command = {run_command("life.py", wire, "second")}
        after = ["first"]
        """)
    assert wire.line().startswith("first start")

    server.terminate()

    assert server.wait(5) == 0
    assert wire.rest() == ["first stop"]


def test_while_the_app_is_checked(site: Site) -> None:
    """The interpreter of the app is asked before anything is started; here it does not answer."""
    wire, gate = site.wire(), site.gate()
    python = site.write("venv/bin/python", f"#!/bin/sh\necho check >{wire}\nexec 9>{wire}\nread word <{gate}\n")
    python.chmod(0o755)
    site.write("venv/pyvenv.cfg", "")
    listener = site.tcp()
    path = site.directory / "web.sock"
    server = site.up(
        f"""
        [sockets.web]
        bind = "unix:{path}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        venv = "venv"
        """,
        listeners=[listener],
    )
    assert wire.line() == "check"

    server.terminate()

    assert server.wait(5) == 0
    assert wire.rest() == []
    assert not path.exists()
    assert server.output == ""


def test_before_it_has_read_its_file(site: Site) -> None:
    """In the middle of its own imports it is an ordinary process: gone at once, nothing opened yet."""
    fifo = site.directory / "trapeze.toml"
    os.mkfifo(fifo)
    server = site._trapeze("up", "-c", str(fifo))
    writer = until(lambda: _open(fifo), what="it to read its file")

    server.terminate()

    assert server.wait(5) in (0, -signal.SIGTERM, 143)
    os.close(writer)


SLOW_IMPORT = """
import sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "trapeze.cli":
            with open({wire!r}, "w") as wire:
                wire.write("importing\\n")
            with open({gate!r}) as gate:
                gate.read()
sys.meta_path.insert(0, Slow())
"""


def importing(site: Site, wire: Wire, gate: Gate) -> dict[str, str]:
    """The environment in which the command line is imported only when the test says so."""
    site.write("slow/sitecustomize.py", SLOW_IMPORT.format(wire=str(wire), gate=str(gate)))
    return {"PYTHONPATH": str(site.directory / "slow")}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_before_it_has_imported_itself(signum: signal.Signals, site: Site) -> None:
    """From its first line on it knows what a signal means: gone, with 0 and without a word."""
    wire, gate = site.wire(), site.gate()
    server = site._trapeze("serve", "web:wsgi", listeners=[site.tcp()], env=importing(site, wire, gate))
    assert wire.line() == "importing"

    server.signal(signum)

    assert server.wait(5) == 0
    assert server.output == ""


def test_harmless_before_it_has_imported_itself(site: Site) -> None:
    """A HUP (a deploy that is in a hurry) does not end a supervisor that is about to start."""
    wire, gate = site.wire(), site.gate()
    options = {"listeners": [site.tcp()], "env": importing(site, wire, gate)}
    server = site._trapeze("serve", "web:wsgi", "--app-dir", str(APPS), **options)
    assert wire.line() == "importing"

    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        server.signal(signum)
    gate.open()

    assert server.ready().stop() == 0
    assert "reload" not in server.output


def _open(fifo: Path) -> int:
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_stopped_while_stopping_one_service(site: Site) -> None:
    """TERM in the middle of `stop x`: x leaves as it was asked to, nothing hangs."""
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.x]
        command = {run_command("life.py", wire, "x", f"slow={gate}")}
        [services.y]
        command = {run_command("life.py", wire, "y")}
        """).ready()
    wire.lines(2)
    assert server.ctl("stop", "x", "--no-wait").code == 0
    assert wire.line() == "x stop"

    server.terminate()

    assert wire.line() == "y stop"
    gate.open()
    assert server.wait() == 0


def test_stopped_in_the_middle_of_a_reload(site: Site) -> None:
    """TERM while the new configuration is looked at: the reload is refused, and nothing of it is left behind."""
    web = Web(site)
    wire, gate = site.wire(), site.gate()
    site.write("venv/pyvenv.cfg", "")
    site.write("venv/bin/python", f"#!/bin/sh\necho check >{wire}\nread word <{gate}\necho '{{}}'\n").chmod(0o755)
    path = site.directory / "new.sock"
    text = site.file.read_text().replace("workers = 1", 'workers = 1\nvenv = "venv"')
    site.write("trapeze.toml", f'[sockets.new]\nbind = "unix:{path}"\n[services.n]\ncommand = "sleep 9"\n{text}')
    web.server.expect_error("reload refused")
    web.server.signal(signal.SIGHUP)
    assert wire.line() == "check"
    request = web.request()

    web.server.terminate()
    until(lambda: web.server.status()["stopping"], what="the stop")
    gate.open()

    web.server.wait_output("reload refused, nothing changed: everything is stopping")
    web.gate.open()
    assert request.answer() == "through the gate"
    assert web.server.wait() == 0
    assert not path.exists()


def test_group_of_the_terminal(site: Site) -> None:
    """A signal to the supervisor's process group does not reach its children: they are stopped in order."""
    wire, gate = site.wire(), site.gate()
    server = site.up(f"""
        [services.first]
        command = {run_command("life.py", wire, "first")}
        [services.second]
        command = {run_command("life.py", wire, "second", f"slow={gate}")}
        after = ["first"]
        """).ready()
    wire.lines(2)

    os.killpg(server.pid, signal.SIGINT)

    assert wire.line() == "second stop"
    gate.open()
    assert wire.rest() == ["first stop"]
    assert server.wait() == 0
