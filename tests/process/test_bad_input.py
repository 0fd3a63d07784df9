"""Bad input: one clear message, the right exit code, nothing started, nothing left."""

from __future__ import annotations

import os
import socket
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.server import Result, Trapeze, clean_environment, run
from tests.support.site import APPS, Site, run_command

WEB = f'[sockets.web]\nbind = "127.0.0.1:0"\n[services.web]\napp = "web:wsgi"\napp_dir = "{APPS}"\n'


class Bad(NamedTuple):
    """A file that cannot run, and what is said about it."""

    text: str
    message: str
    code: int = 2


FILES = {
    "broken TOML": Bad(
        "[services.web\napp = 1\n",
        "{file}: line 1, column 14: broken TOML: expected ']' at the end of a table declaration",
    ),
    "unknown key": Bad(
        f"{WEB}worker = 4\n",
        '{file}: services.web.worker: unknown key, did you mean "workers"?',
    ),
    "wrong type": Bad(f'{WEB}workers = "four"\n', "{file}: services.web.workers: "),
    "unknown section": Bad("[service.web]\n", '{file}: service: unknown key, did you mean "services"?'),
    "no such socket": Bad(
        f'{WEB}socket = "wbe"\n',
        '{file}: services.web.socket: there is no socket "wbe", did you mean "web"?',
    ),
    "after in a circle": Bad(
        '[services.a]\ncommand = "true"\nafter = ["b"]\n[services.b]\ncommand = "true"\nafter = ["a"]\n',
        "{file}: services.a.after: ",
    ),
    "unknown backend": Bad(
        f'{WEB}backend = "unicorn"\n',
        "services.web.backend: unknown backend 'unicorn'",
    ),
    "unix path too long": Bad(
        WEB.replace("127.0.0.1:0", f"unix:/tmp/{'x' * 120}"),
        "{file}: sockets.web.bind: the path is too long for a Unix socket: 125 bytes, the limit is 107",
    ),
    "no such group": Bad(
        WEB.replace('127.0.0.1:0"', 'unix:{dir}/web.sock"\ngroup = "nosuchgroup"'),
        '{file}: sockets.web.group: there is no group "nosuchgroup"',
    ),
    "no such user": Bad(
        '[services.x]\ncommand = "true"\nuser = "nosuchuser"\n',
        '{file}: services.x.user: there is no user "nosuchuser"',
    ),
    "no such program": Bad('[services.x]\ncommand = "nosuchprogram --x"\n', "{file}: services.x.command: "),
    "no such limit": Bad('[services.x]\ncommand = "true"\nrlimits = { nofiles = 5 }\n', "{file}: services.x.rlimits"),
    "no such directory": Bad('[services.x]\ncommand = "true"\ncwd = "nosuch"\n', "{file}: services.x.cwd: "),
    "no such env file": Bad('[services.x]\ncommand = "true"\nenv_file = "nosuch"\n', "{file}: services.x.env_file"),
    "no such signal": Bad('[services.x]\ncommand = "true"\nstop_signal = "TREM"\n', "{file}: services.x.stop_signal"),
    "no such pre_start": Bad(
        '[services.x]\ncommand = "true"\npre_start = "nosuchprogram"\n', "{file}: services.x.pre_start"
    ),
    "nothing to run": Bad("", "{file}: "),
}


def nothing_left(site: Site, runtime: Path) -> None:
    """No lock, no control socket: the runtime directory is as it was. (The audit looks for processes.)"""
    assert list(runtime.iterdir()) == []
    assert [path for path in site.directory.iterdir() if path.is_socket()] == []


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("case", FILES)
def test_file(case: str, site: Site) -> None:
    """`check` and `up` say the same; a side service that is all right was not started either."""
    bad, wire = FILES[case], site.wire()
    good = f"[services.good]\ncommand = {run_command('life.py', wire, 'good')}\n" if bad.text else ""
    server = site.up(bad.text.replace("{dir}", str(site.directory)) + good)
    server.expect_error("^error: ")
    message = "error: " + bad.message.replace("{file}", str(site.file))

    assert server.wait() == bad.code

    assert len(found := errors(server.stderr)) == 1, server.output
    assert found[0].startswith(message)
    assert "Traceback" not in server.output
    assert wire.rest() == []
    nothing_left(site, server.runtime_dir)
    checked = run("check", "-c", str(site.file), env=server.env)
    assert checked.code == 2
    assert found[0].removeprefix("error: ").removeprefix(f"{site.file}: ") in checked.out + checked.err


def test_all_problems_at_once(site: Site) -> None:
    server = site.up(f'nmae = "x"\n{WEB}worker = 4\nnice = 99\nuser = "nosuchuser"\n')
    server.expect_error("^error: ")

    assert server.wait() == 2
    assert len(errors(server.stderr)) >= 3


@pytest.mark.parametrize("what", ["missing", "a directory", "not UTF-8"])
def test_file_that_cannot_be_read(what: str, site: Site) -> None:
    path = site.directory / "x.toml"
    if what == "a directory":
        path.mkdir()
    elif what == "not UTF-8":
        path.write_bytes(b'name = "\xff"\n')

    done = run("up", "-c", str(path), env={**clean_environment(), "TRAPEZE_RUNTIME_DIR": str(site.directory)})

    assert done.code == 2, done
    assert len(errors(done.err)) == 1
    assert str(path) in done.err


# -- apps -------------------------------------------------------------------------------------------------------------

RAISES = """
def connect():
    raise RuntimeError("no database configured")

connect()
"""

LIFESPAN = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database configured"})
"""

APP_CASES = {
    "missing module": ("nosuch:app", 2, "no module named 'nosuch'", False),
    "missing attribute": ("empty:application", 1, "module empty has no attribute 'application'", False),
    "raises on import": ("raises:app", 1, "importing raises failed: RuntimeError: no database configured", True),
    "does not parse": ("syntax:app", 1, "importing syntax failed: SyntaxError", False),
    "lifespan fails": ("lifespan:app", 1, "lifespan start-up failed", False),
    "imports what is missing": ("imports:app", 1, "No module named 'nosuchthing'", True),
    "exits while importing": ("exits:app", 1, "importing exits failed: SystemExit: 5", True),
    "ends while importing": ("leaves:app", 1, "web: zygote exited with status 7 while importing leaves", False),
    "is no app": ("noapp:app", 1, "noapp:app is no app: int cannot be called", False),
    "wrong interface": ("lifespan:app", 1, "serves WSGI only", False),
}


@pytest.mark.parametrize("verb", ["serve", "up"])
@pytest.mark.parametrize("case", APP_CASES)
def test_app(case: str, verb: str, site: Site) -> None:
    """Four workers fail: one message, one traceback, exit code 1 (2 if that is seen before anything starts)."""
    site.write("raises.py", RAISES)
    site.write("lifespan.py", LIFESPAN)
    site.write("empty.py", "")
    site.write("syntax.py", "def app(:\n")
    site.write("imports.py", "import nosuchthing\n")
    site.write("exits.py", "import sys\nsys.exit(5)\n")
    site.write("noapp.py", "app = 5\n")
    site.write("leaves.py", "import os\nos._exit(7)\n")
    app, code, message, traceback = APP_CASES[case]
    backend = "chaussette" if case == "wrong interface" else "auto"
    listener = site.tcp()
    if verb == "serve":
        server = site.serve(app, "--workers", "4", "--backend", backend, listeners=[listener])
    else:
        server = site.up(
            f"""
            [sockets.web]
            bind = "{listener.bind}"
            [services.web]
            app = "{app}"
            backend = "{backend}"
            workers = 4
            """,
            listeners=[listener],
        )
    server.expect_error(".*")

    assert server.wait() == code, server.output

    assert len(found := errors(server.stderr)) == 1, server.output
    assert message in found[0], server.output
    assert server.output.count("Traceback (most recent call last)") == traceback, server.output
    if case == "raises on import":
        assert f'{site.directory}/raises.py", line 5, in <module>' in server.output
        assert "trapeze_backends" not in server.output, "frames of ours tell nobody anything"
    if case == "wrong interface":
        assert 'hint: backend = "uvicorn" serves it' in server.output
    nothing_left(site, server.runtime_dir)


def test_backend_is_not_installed(site: Site) -> None:
    """In the app's own virtual environment there is no gunicorn: the line that installs it."""
    packages = site.directory / "venv"
    venv.create(packages, with_pip=False, symlinks=True)
    server = site.serve("empty:app", "--venv", str(packages), "--backend", "gunicorn", listeners=[site.tcp()])
    site.write("empty.py", "")
    server.expect_error("^error: ")

    assert server.wait() == 2

    assert f"services.web.backend: gunicorn is not installed in {packages}" in server.output
    assert "pip install gunicorn" in server.output


# -- addresses and names ----------------------------------------------------------------------------------------------


def serve(site: Site, *binds: str, name: str = "trapeze") -> Trapeze:
    words = [word for bind in binds for word in ("--bind", bind)]
    return site.serve("web:wsgi", "--app-dir", str(APPS), "--name", name, *words, listeners=[], name=name)


def test_port_in_use(site: Site) -> None:
    """Who holds it is said; the sockets that could be had are closed again."""
    listener = site.tcp()
    path = site.directory / "web.sock"
    server = serve(site, f"unix:{path}", listener.address)
    server.expect_error("^error: ")

    assert server.wait() in (1, 2)

    error = errors(server.stderr)
    assert len(error) == 1
    assert error[0].startswith(
        f"error: cannot listen on {listener.address}: address already in use (EADDRINUSE), held by "
    )
    assert error[0].endswith(f"pid {os.getpid()}")
    nothing_left(site, server.runtime_dir)


def test_unix_socket_of_another_instance(site: Site) -> None:
    """Its supervisor is named, as for a port, and not the worker that called listen() last."""
    path = site.directory / "web.sock"
    first = serve(site, f"unix:{path}").ready()

    second = run(
        "serve", "web:wsgi", "--app-dir", str(APPS), "--name", "other", "--bind", f"unix:{path}", env=first.env
    )

    assert second.code == 2
    assert "address already in use (EADDRINUSE), held by " in second.err
    assert second.err.rstrip().endswith(f" pid {first.pid}")
    assert first.stop() == 0


def test_unix_socket_in_use(site: Site) -> None:
    path = site.directory / "web.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        server = serve(site, f"unix:{path}")
        server.expect_error("^error: ")
        assert server.wait() in (1, 2)
        assert path.exists(), "it is somebody else's"
        path.unlink()

    assert errors(server.stderr)[0].startswith(f"error: cannot listen on unix:{path}: ")


def test_stale_unix_socket(site: Site) -> None:
    path = site.directory / "web.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = serve(site, f"unix:{path}").ready()

    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answer:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert answer.read().endswith(b"hello")
    assert server.stop() == 0
    assert not path.exists()


def test_file_in_place_of_a_unix_socket(site: Site) -> None:
    path = site.write("web.sock", "precious")
    server = serve(site, f"unix:{path}")
    server.expect_error("^error: ")

    assert server.wait() in (1, 2)
    assert path.read_text() == "precious"


def test_two_instances_with_one_name(site: Site) -> None:
    first = serve(site, "127.0.0.1:0", name="shop").ready()

    second = run("serve", "web:wsgi", "--app-dir", str(APPS), "--bind", "127.0.0.1:0", "--name", "shop", env=first.env)

    assert second.code == 2
    assert errors(second.err) == [f"error: an instance named shop is already running as pid {first.pid}"]
    assert "hint: " in second.err
    third = run("serve", "nosuch:app", "--bind", "127.0.0.1:0", "--name", "other", env=first.env)
    assert third.code == 2
    assert first.service()["status"] == "RUNNING"
    assert first.stop() == 0
    nothing_left(site, first.runtime_dir)


def test_control_socket_that_a_killed_one_left(site: Site) -> None:
    """Replaced by the next start with that name; at the end nothing is left, not even a lock."""
    first = serve(site, "127.0.0.1:0").ready()
    first.kill()
    first.wait()
    assert first.door.exists()

    answer = run("status", env=first.env)
    assert answer.code == 3
    assert str(first.runtime_dir) in answer.err

    second = Trapeze("serve", "web:wsgi", "--app-dir", str(APPS), "--bind", "127.0.0.1:0", directory=site.directory)
    second.start()
    try:
        second.ready()
        assert second.ctl("status").code == 0
    finally:
        assert second.stop() == 0
    nothing_left(site, second.runtime_dir)


def test_no_command_knows(site: Site) -> None:
    environ = {**clean_environment(), "TRAPEZE_RUNTIME_DIR": str(site.directory)}
    done: Result = run("statsu", env=environ)

    assert (done.code, done.out) == (2, "")
    assert errors(done.err) == ['error: no such command "statsu", did you mean "status"?']
