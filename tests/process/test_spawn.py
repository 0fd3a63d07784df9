"""What a process finds when it starts: identity, limits, environment, descriptors."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import APPS, Site, ignored_of, run_command
from trapeze.limits import parse_signal

KINDS = ["plain", "shim", "worker"]
"""The three ways to start something: by setpriv, by our own prelude (a command with limits or sockets), an app."""


def started(site: Site, kind: str, fields: str = "", **options: Any) -> dict[str, Any]:
    """Start one process in one of the three ways and return what it found; it has stopped again."""
    wire = site.wire()
    listener = site.tcp()
    command = run_command("facts.py", wire, "stay")
    what = {
        "plain": f"command = {command}",
        "shim": f"command = {command}\nsocket = 'web'",
        "worker": f"app = 'web:wsgi'\napp_dir = '{APPS}'\nsocket = 'web'",
    }[kind]
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [sockets.other]
        bind = "unix:{site.directory}/other-{kind}.sock"
        [services.x]
        {what}
        {fields}
        """,
        listeners=[listener],
        **options,
    ).ready()
    found = server.get("/facts").json() if kind == "worker" else wire.facts()
    assert found["ppid"] == server.pid
    assert server.stop() == 0, server.output
    return {**found, "listens": listener.address}


@pytest.fixture
def open_site(site: Site) -> Site:
    """A site that every user may read, with programs that every user may run."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    site.directory.chmod(0o755)
    for name in ("facts.py", "web.py"):
        site.write(name, (APPS / name).read_text())
    return site


def is_public(python: str) -> bool:
    """May another user run this interpreter? Not if it lives in root's home."""
    try:
        done = subprocess.run([python, "-c", ""], user="nobody", group="nogroup", extra_groups=[], cwd="/", check=False)
    except PermissionError:
        return False
    return done.returncode == 0


def public_venv(site: Site) -> str:
    """A virtual environment of the system's Python that finds gunicorn, which is pure Python, where ours is."""
    import gunicorn

    system = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if system is None or not is_public(system):
        pytest.skip("there is no Python that another user may run")
    about = "import sys, sysconfig; print(sysconfig.get_path('purelib', 'venv', {'base': sys.argv[1]}))"
    venv = site.directory / "venv"
    done = subprocess.run([system, "-c", about, str(venv)], capture_output=True, text=True, check=True)
    packages = Path(done.stdout.strip())
    (venv / "bin").mkdir(parents=True)
    packages.mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {Path(system).parent}\n")
    (venv / "bin" / "python").symlink_to(system)
    (packages / "ours.pth").write_text(f"{Path(gunicorn.__file__).parents[1]}\n")
    return str(venv)


def started_as(site: Site, kind: str, fields: str) -> dict[str, Any]:
    """The same as `started`, as another user."""
    wire, listener = site.wire(), site.tcp()
    wire.path.chmod(0o666)
    if kind == "shim" and not is_public(sys.executable):
        pytest.skip("the prelude is run by our own Python, which other users may not run here")
    command = f'command = "/usr/bin/python3 {site.directory}/facts.py {wire} stay"'
    what = {
        "plain": command,
        "shim": f'{command}\nsocket = "web"',
        "worker": 'app = "web:wsgi"\nsocket = "web"' + ("" if kind != "worker" else f'\nvenv = "{public_venv(site)}"'),
    }[kind]
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.x]
        {what}
        {fields}
        """,
        listeners=[listener],
    ).ready()
    found = server.get("/facts").json() if kind == "worker" else wire.facts()
    assert server.stop() == 0, server.output
    return dict(found)


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_user_group_and_umask(kind: str, open_site: Site) -> None:
    nobody = pwd.getpwnam("nobody")

    found = started_as(open_site, kind, 'user = "nobody"\numask = "027"')

    assert found["uid"] == [nobody.pw_uid] * 3
    assert found["gid"] == [nobody.pw_gid] * 3
    assert found["groups"] == os.getgrouplist("nobody", nobody.pw_gid)
    assert found["umask"] == "0027"
    # A change of user clears the parent-death signal: it has to be set after that.
    assert found["death_signal"] == signal.SIGTERM


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_another_group(kind: str, open_site: Site) -> None:
    found = started_as(open_site, kind, 'user = "nobody"\ngroup = "daemon"')

    assert found["gid"] == [grp.getgrnam("daemon").gr_gid] * 3
    assert 0 not in found["groups"], "no group of root's is left"


@pytest.mark.parametrize("kind", KINDS)
def test_group_signals_and_death(kind: str, site: Site) -> None:
    found = started(site, kind)

    assert found["pgid"] == found["pid"], "a process group of its own: the terminal's signals are not for it"
    assert found["death_signal"] == signal.SIGTERM
    assert int(found["blocked"], 16) == 0
    if kind != "worker":  # Python itself ignores these two; so does the program that reports, being Python
        assert ignored_of(found["ignored"]) & ~_mask(signal.SIGPIPE, signal.SIGXFSZ) == 0


def _mask(*signals: signal.Signals) -> int:
    return sum(1 << (number - 1) for number in signals)


def test_commands_do_not_ignore_signals_that_python_does(site: Site) -> None:
    """A shell pipeline under a command of ours must die of SIGPIPE as it does everywhere."""
    wire = site.wire()
    report = f"grep SigIgn /proc/self/status >{wire}; exec sleep 3600"
    listener = site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.plain]
        command = {json.dumps(report)}
        shell = true
        [services.shim]
        command = {json.dumps(report)}
        shell = true
        socket = "web"
        """,
        listeners=[listener],
    )

    ignored = [ignored_of(line.split()[1]) for line in wire.lines(2)]

    assert ignored == [0, 0]
    assert server.stop() == 0


@pytest.mark.parametrize("name", ["INT", "RTMIN", "RTMIN+1", "RTMAX", "35"])
@pytest.mark.parametrize("kind", KINDS)
def test_stop_signal_is_the_death_signal(kind: str, name: str, site: Site) -> None:
    assert started(site, kind, f'stop_signal = "{name}"')["death_signal"] == parse_signal(name)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_niceness(kind: str, site: Site) -> None:
    limits = 'rlimits = { nofile = "200:300", core = 0 }\nnice = 5'

    found = started(site, kind, limits)

    assert found["nofile"] == [200, 300]
    assert found["core"] == [0, 0]
    assert found["nice"] == 5


def test_limits_are_ours_unless_said(site: Site) -> None:
    """Two hundred processes may make the supervisor raise its own limit; its children get the old one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    prefix = ["prlimit", f"--nofile=256:{hard}"]
    wire = site.wire()
    server = site.up(
        f"""
        [services.x]
        command = {run_command("facts.py", wire, "stay")}
        [services.many]
        command = "sleep 3600"
        workers = 60
        """,
        prefix=prefix,
    )

    assert wire.facts()["nofile"] == [256, hard]
    raised = int(Path(f"/proc/{server.pid}/limits").read_text().split("Max open files")[1].split()[0])
    assert raised > 256
    assert server.ready().stop() == 0
    assert soft  # as it was for us


@pytest.mark.parametrize("kind", KINDS)
def test_environment(kind: str, site: Site) -> None:
    site.write("x.env", "FROM_FILE=file\nBOTH=file\nQUOTED='two words'\n")
    above = {
        "LISTEN_FDS": "0",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "old",
        "NOTIFY_SOCKET": "/nowhere",
        "WATCHDOG_USEC": "5",
        "WATCHDOG_PID": "7",
        "KEPT": "yes",
    }

    env = started(site, kind, 'env_file = "x.env"\nenv = { BOTH = "env", NUMBER = 5, YES = true }', env=above)["env"]

    assert (env["FROM_FILE"], env["BOTH"], env["QUOTED"], env["NUMBER"], env["KEPT"]) == (
        "file", "env", "two words", "5", "yes",
    )  # fmt: skip
    assert env["YES"] == "true"
    assert (env["TRAPEZE_SERVICE"], env["TRAPEZE_INDEX"], env["TRAPEZE_GENERATION"]) == ("x", "0", "1")
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & env.keys()
    if kind != "shim":
        assert not any(name.startswith("LISTEN_") for name in env)
    assert not any(name.startswith("PYTHONPATH") and "trapeze_backends" in env[name] for name in env)


@pytest.mark.parametrize("kind", KINDS)
def test_working_directory(kind: str, site: Site) -> None:
    """The file's directory, or `cwd`, relative to it."""
    (site.directory / "sub").mkdir()

    assert started(site, kind)["cwd"] == str(site.directory)
    assert started(site, kind, 'cwd = "sub"')["cwd"] == str(site.directory / "sub")


@pytest.mark.parametrize("kind", KINDS)
def test_no_descriptor_leaks(kind: str, site: Site) -> None:
    """A child has 0, 1, 2 and the sockets that its service names: not those of others, none of the supervisor's."""
    found = started(site, kind)
    fds = {int(number): target for number, target in found["fds"].items() if not target.startswith("/proc/")}

    assert fds.pop(0) == "/dev/null"
    assert fds.pop(1).startswith("pipe:")
    assert fds.pop(2).startswith("pipe:")
    assert list(found["sockets"].values()) == ([] if kind == "plain" else [found["listens"]]), "and not the other one"
    if kind == "plain":
        assert fds == {}
    elif kind == "shim":
        assert list(fds) == [3]
    else:
        # A server has descriptors of its own; before it was imported there were the listener, the notify socket, and
        # the copy of stderr on which stacks are written.
        stderr = found["first_fds"]["2"]
        first = {int(number): target for number, target in found["first_fds"].items() if int(number) > 2}
        assert [target for target in first.values() if target.startswith("pipe:")] == [stderr]
        assert sum(target.startswith("socket:") for target in first.values()) == 2
        assert [target for target in first.values() if not target.startswith(("socket:", "/proc/", stderr))] == []


def test_no_descriptor_of_an_earlier_child_leaks(site: Site) -> None:
    """The pipes, pidfds and notify sockets of a dozen others are not inherited by the last one."""
    wire = site.wire()
    others = "\n".join(
        f"[services.s{number}]\ncommand = 'sleep 3600'\nready = 'notify'" if number % 2 else
        f"[services.s{number}]\ncommand = 'sleep 3600'"
        for number in range(12)
    )  # fmt: skip
    server = site.up(f"""
        {others}
        [services.last]
        command = {run_command("facts.py", wire, "stay")}
        """)

    fds = {number: target for number, target in wire.facts()["fds"].items() if not target.startswith("/proc/")}

    assert sorted(fds) == ["0", "1", "2"]
    assert server.stop() == 0


# -- sockets ----------------------------------------------------------------------------------------------------------


def test_listen_fds(site: Site) -> None:
    """Several sockets under two names, in the order that the service names them, from 3 on; words are filled in."""
    wire, one, two, three = site.wire(), site.tcp(), site.tcp(), site.tcp()
    words = ["{fd:a}", "{fd:b}", "{fd:b:1}", "{index}", "{env:WHAT}", "{other}"]
    server = site.up(
        f"""
        [sockets.a]
        bind = "{one.bind}"
        [sockets.b]
        bind = ["{two.bind}", "{three.bind}"]
        [services.x]
        command = {run_command("facts.py", wire, "stay", *words)}
        socket = ["b", "a"]
        env = {{ WHAT = "two words" }}
        """,
        listeners=[one, two, three],
    )
    found = wire.facts()

    assert found["argv"][3:] == ["5", "3", "4", "0", "two words", "{other}"]
    assert found["env"]["LISTEN_FDS"] == "3"
    assert found["env"]["LISTEN_PID"] == str(found["pid"])
    assert found["env"]["LISTEN_FDNAMES"] == "b:b:a"
    assert found["sockets"] == {"3": two.address, "4": three.address, "5": one.address}
    assert server.stop() == 0


def test_stdin_is_a_socket(site: Site) -> None:
    """As inetd with `wait`: descriptor 0 is the listening socket."""
    listener = site.tcp()
    script = site.write(
        "inetd.py",
        "import socket\n"
        "listener = socket.socket(fileno=0)\n"
        "listener.setblocking(True)\n"
        "while True:\n"
        "    connection, _ = listener.accept()\n"
        "    connection.sendall(b'from inetd')\n"
        "    connection.close()\n",
    )
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.x]
        command = "{sys.executable} {script}"
        socket = "web"
        stdin = "socket:web"
        """,
        listeners=[listener],
    )
    host, port = listener.address.split(":")

    with socket.create_connection((host, int(port)), timeout=10) as client, client.makefile() as answer:
        assert answer.read() == "from inetd"
    assert server.stop() == 0


def test_stdin_is_inherited(site: Site) -> None:
    wire = site.wire()
    read, write = os.pipe()
    server = site.up(
        f"""
        [services.x]
        command = "cat >{wire}"
        shell = true
        stdin = "inherit"
        restart = "never"
        """,
        stdin=read,
    )
    os.close(read)
    os.write(write, b"typed\n")

    assert wire.line() == "typed"
    os.close(write)
    assert server.ready().service("x")["status"] == "DONE"
    assert server.stop() == 0


def test_no_shell_unless_asked(site: Site) -> None:
    wire = site.wire()
    facts = json.loads(run_command("facts.py", wire))
    server = site.up(f"""
        [services.plain]
        command = {json.dumps(facts + " $HOME '*' '; echo' '|' cat")}
        restart = "never"
        """).ready()
    assert wire.facts()["argv"][2:] == ["$HOME", "*", "; echo", "|", "cat"]
    assert server.stop() == 0


def test_shell(site: Site) -> None:
    wire = site.wire()
    server = site.up(f"""
        [services.x]
        command = 'for word in $WHAT; do echo "$word" >{wire}; done; exec sleep 3600'
        shell = true
        env = {{ WHAT = "a b" }}
        """)

    assert wire.lines(2) == ["a", "b"]
    assert server.stop() == 0


@pytest.mark.root
def test_unix_socket_of_a_service_with_another_user(open_site: Site) -> None:
    """A socket of our own making: the worker accepts on it, and it is gone at the end."""
    path = open_site.directory / "web.sock"
    server = open_site.up(f"""
        [sockets.web]
        bind = "unix:{path}"
        mode = "0660"
        group = "daemon"
        [services.web]
        app = "web:wsgi"
        venv = "{public_venv(open_site)}"
        user = "nobody"
        """).ready()
    found = path.stat()

    assert (found.st_mode & 0o777, found.st_gid) == (0o660, 1)
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answer:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert answer.read().endswith(b"hello")
    assert server.stop() == 0
    assert not path.exists()
