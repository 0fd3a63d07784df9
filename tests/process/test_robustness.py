"""What must not bring the supervisor down or hold it up: several checks at once, noise, strange neighbours."""

from __future__ import annotations

import json
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
    """The flag belongs to all who share the socket; a program that clears it is named."""
    listener = site.tcp()
    code = "import os, socket; s = socket.socket(fileno=3); s.setblocking(True); s.detach()"
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.rude]
        command = {json.dumps([sys.executable, "-c", code])}
        socket = "web"
        restart = "never"
        """,
        listeners=[listener],
        keep_listeners=True,
    ).ready()

    server.wait_output("socket web: O_NONBLOCK was cleared by a worker; set again")
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
