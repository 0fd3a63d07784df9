"""A zygote that is killed: its heir goes on with what was imported, and what is on the disk by then does not matter."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

from tests.process.test_upgrade import upgraded
from tests.support.server import Trapeze
from tests.support.site import Site
from tests.support.wait import until

APP = """
def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"old"]
"""


def up(site: Site) -> Trapeze:
    listener = site.tcp()
    site.write("shop.py", APP)
    server = site.up(
        f"[sockets.web]\nbind = '{listener.bind}'\n[services.web]\napp = 'shop:wsgi'\npreload = true\n",
        listeners=[listener],
    )
    server.ready()
    server.expect_error("the zygote of generation 1 ended")
    heir(server)
    site.write("shop.py", APP.replace("old", "new"))
    return server


def one(server: Trapeze, role: str) -> Any:
    found = [each for each in server.service()["standby"] if each["role"] == role and each["state"] == "READY"]
    return found[0] if found else None


def heir(server: Trapeze) -> int:
    """Wait for it."""
    return int(until(lambda: one(server, "heir"), what="an heir")["pid"])


def kill(server: Trapeze, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)

    until(partial(is_gone, server, pid), what=f"the end of {pid}")


def is_gone(server: Trapeze, pid: int) -> bool:
    service = server.service()
    return pid not in [each["pid"] for each in (*service["processes"], *service["standby"])]


def answer_of_another(server: Trapeze) -> str:
    """Kill the worker; what the next one answers."""
    kill(server, server.pids()[0])
    return server.ready().get("/").text


def test_zygotes_may_be_killed_as_often_as_one_likes(site: Site) -> None:
    server = up(site)
    for _ in range(3):
        next_one = heir(server)
        kill(server, one(server, "zygote")["pid"])
        assert one(server, "zygote")["pid"] == next_one
        assert answer_of_another(server) == "old"
    assert server.service()["pinned"] is True
    assert server.service()["imported_again"] is None
    assert "its heir takes its place, nothing is imported anew" in server.output
    assert server.stop() == 0


def test_across_an_upgrade_in_place(site: Site) -> None:
    """The heir is carried over, and takes requests of the new program."""
    server = up(site)
    next_one = heir(server)
    upgraded(server)
    assert heir(server) == next_one
    kill(server, one(server, "zygote")["pid"])
    assert answer_of_another(server) == "old"
    assert heir(server) != next_one
    assert server.stop() == 0


def test_both_killed_at_once_is_said(site: Site) -> None:
    server = up(site)
    both = (heir(server), one(server, "zygote")["pid"])
    for signum in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: or the one forks another heir when the other dies
        for pid in both:
            os.kill(pid, signum)
    for pid in both:
        until(partial(is_gone, server, pid), what=f"the end of {pid}")
    until(lambda: one(server, "zygote"), what="another zygote")
    assert answer_of_another(server) == "new"
    assert server.service()["imported_again"] is not None
    assert "from what was on the disk then" in server.ctl("status").out
    assert server.stop() == 0
