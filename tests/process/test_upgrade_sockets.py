"""Upgrade in place after sockets have changed: what is kept for a rollback names sockets that are closed by now."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.support.site import Site
from tests.support.wait import until

APP = """
import os
def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [VERSION]
"""


def get(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        return client.get("http://localhost/").text


def test_after_a_socket_was_moved(site: Site) -> None:
    """The new program restores it, and the kept generation comes back on the sockets of today."""
    site.write("shop.py", f"VERSION = b'one'\n{APP}")
    first, second = site.directory / "a.sock", site.directory / "b.sock"
    text = '[sockets.web]\nbind = "unix:{path}"\n[services.web]\napp = "shop:wsgi"\npreload = true\n'
    server = site.up(text.format(path=first)).ready()
    site.write("shop.py", f"VERSION = b'two'\n{APP}")
    site.write("trapeze.toml", text.format(path=second))
    assert server.ctl("reload").code == 0
    until(lambda: not first.exists(), what="the first address to be given up")
    assert server.service()["kept"] == [1]

    assert server.ctl("upgrade").code == 0

    assert get(second) == "two"
    assert server.ctl("rollback", "web").code == 0
    assert get(second) == "one"
    assert server.stop() == 0
