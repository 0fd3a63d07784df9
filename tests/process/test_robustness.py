"""What must not bring the supervisor down or hold it up: several checks at once, noise, strange neighbours."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.support.site import APPS, Site


def test_reload_of_several_apps(site: Site) -> None:
    """Their checks end in any order; none of them may be reaped by somebody else, again and again."""
    services = "".join(
        f"""
        [sockets.{name}]
        bind = "unix:{site.directory}/{name}.sock"
        [services.{name}]
        app = "web:{interface}"
        app_dir = "{APPS}"
        """
        for name, interface in (("one", "wsgi"), ("two", "asgi"), ("three", "wsgi"))
    )
    server = site.up(services).ready()

    for generation in range(2, 6):
        done = server.ctl("reload")
        assert done.code == 0, done
        assert {service["generation"] for service in server.status()["services"]} == {generation}
    assert server.stop() == 0


def test_check_that_talks_without_end(site: Site, tmp_path: Path) -> None:
    """A .pth that fills the pipe and leaves a program behind does not hold up a reload, nor make us deaf."""
    noise = "import sys; sys.stderr.write('noise ' * 40_000 + chr(10))\n"
    site.write("noisy.py", noise)
    site.write(
        "app.py", "import noisy\ndef app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n"
    )
    server = site.up(f"""
        [sockets.web]
        bind = "unix:{site.directory}/web.sock"
        [services.web]
        app = "app:app"
        env = {{ PYTHONSTARTUP = "" }}
        """).ready()
    customize = "import os\nif os.environ.get('TRAPEZE_GENERATION') == '0':\n    " + noise
    site.write("sitecustomize.py", customize)
    text = site.file.read_text().replace('PYTHONSTARTUP = ""', f'PYTHONPATH = "{site.directory}"')
    site.write("trapeze.toml", text)

    done = server.ctl("reload", "--wait", "30")

    assert done.code == 0, done
    assert server.stop() == 0


def test_nonblocking_is_set_again(site: Site) -> None:
    """The flag belongs to all who share the socket; where an app needs it, one that was cleared is set again."""
    listener = site.tcp()
    code = "import os, socket; s = socket.socket(fileno=3); s.setblocking(True); s.detach()"
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "web:wsgi"
        app_dir = "{APPS}"
        [services.rude]
        after = ["web"]
        command = {json.dumps([sys.executable, "-c", code])}
        socket = "web"
        restart = "never"
        """,
        listeners=[listener],
        keep_listeners=True,
    ).ready()

    server.wait_output("socket web: O_NONBLOCK was cleared by a worker; set again")
    assert server.stop() == 0


BLOCKING = r"""
import socket
import sys

listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(True)
while True:
    connection, peer = listener.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nplain\n")
    connection.close()
"""


def test_a_command_that_waits_in_accept_goes_on_waiting(site: Site) -> None:
    """Where no app shares the socket the flag is the command's, whatever happens to others, or to the socket."""
    listener = site.tcp()
    site.write("server.py", BLOCKING)
    config = f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        command = "{sys.executable} -S -E server.py {{fd:web}}"
        socket = "web"
        [services.side]
        command = "sleep 3600"
        """
    server = site.up(config, listeners=[listener], keep_listeners=True).ready()
    assert server.get().text == "plain\n"  # it has cleared the flag
    before = server.pids()

    for _ in range(3):
        assert server.ctl("restart", "side").code == 0
        assert server.get().text == "plain\n"
    assert server.pids() == before

    # Taken over by a new section, it is the same socket still, and the old worker accepts until the new one is there.
    site.write("trapeze.toml", config.replace("[services.web]", "backlog = 100\n        [services.web]", 1))
    assert server.ctl("reload").code == 0
    assert os.get_blocking(listener.fd)
    assert server.get().text == "plain\n"
    assert "O_NONBLOCK" not in server.output
    assert "BlockingIOError" not in server.output
    assert server.stop() == 0


def test_recycling_is_no_failure(site: Site) -> None:
    """A worker that leaves by its server's own max_requests is replaced at once, however young; nothing is FAILED."""
    listener = site.tcp()
    server = site.serve(
        "web:wsgi", "--app-dir", str(APPS), "--option", "max_requests=2", "--backend", "gunicorn", listeners=[listener]
    ).ready()

    pids = {server.get("/pid").text for _ in range(24)}

    assert len(pids) >= 8
    server.ready()
    assert server.service()["status"] == "RUNNING"
    assert server.stop() == 0


def test_first_start_fails_under_file_watch(site: Site) -> None:
    """The watch does not hold up the end."""
    site.write("shop.py", "raise ValueError('boom')\n")
    server = site.serve("shop", "--reload", listeners=[site.tcp()])
    server.expect_error("boom|Traceback|File")

    assert server.wait() == 1
    assert server.output.count("Traceback (most recent call last)") == 1
