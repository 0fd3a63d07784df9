"""What a reload asks the server before it begins: whether it takes its options, if they are new."""

from __future__ import annotations

import sys

from tests.support.site import Site

HELLO = """
def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_server_is_asked_about_its_options_only_when_they_are_new(site: Site) -> None:
    """That is another interpreter with the server in it, in the moment in which the processor is wanted elsewhere."""
    site.write("shop.py", HELLO)
    python = site.directory / "python"
    asked = site.directory / "asked"
    python.write_text(f'#!/bin/sh\ncase "$*" in *"web check"*) echo >> {asked};; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    asked.touch()
    text = f"""
        [sockets.web]
        bind = "127.0.0.1:0"
        [services.web]
        app = "shop:wsgi"
        backend = "gunicorn"
        python = "{python}"
        options.config = "gunicorn.conf.py"
        """
    site.write("gunicorn.conf.py", "")
    server = site.up(text).ready()

    assert server.ctl("reload").code == 0
    assert asked.read_text() == ""

    site.write("trapeze.toml", f"{text}options.limit_request_line = 100\n")
    assert server.ctl("reload").code == 0
    assert asked.read_text() == "\n"

    site.write("gunicorn.conf.py", "worker_class = 'nonsense'")
    server.expect_error("nonsense")
    refused = server.ctl("reload")
    assert refused.code == 1, "what has become of its files since then, the new code finds out"
    assert "nonsense" in refused.err
    assert server.service()["generation"] == 3
