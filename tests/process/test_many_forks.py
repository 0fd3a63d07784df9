"""Many workers of one zygote, and apps that make forking hard."""

from __future__ import annotations

import pytest

from tests.support.shop import APP
from tests.support.site import Site


@pytest.mark.timeout(120)
def test_more_than_the_socket_holds(site: Site) -> None:
    """A hundred requests at once do not fit into the line to the zygote: they wait for their turn."""
    listener = site.tcp()
    site.write("shop.py", APP.replace("{body}", "'one'"))
    text = f'[sockets.web]\nbind = "{listener.bind}"\n[services.web]\napp = "shop:app"\npreload = true\n'
    server = site.up(text, listeners=[listener]).ready()

    done = server.ctl("scale", "web", "120", "--wait", "90")

    assert done.code == 0, done
    assert server.service()["ready"] == 120
    assert server.ctl("scale", "web", "1").code == 0
    assert server.stop() == 0


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "lambda *_: os.waitpid(-1, os.WNOHANG)"])
def test_an_app_that_reaps_all_children(handler: str, site: Site) -> None:
    """The process between zygote and worker is gone before it can be waited for; the worker is there all the same."""
    listener = site.tcp()
    text = f"import os, signal\nsignal.signal(signal.SIGCHLD, {handler})\n" + APP.replace("{body}", "'one'")
    site.write("shop.py", text)
    config = f'[sockets.web]\nbind = "{listener.bind}"\n[services.web]\napp = "shop:app"\npreload = true\nworkers = 3\n'
    server = site.up(config, listeners=[listener]).ready()
    assert server.get("/").text == "one"
    assert server.service()["pinned"]
    assert server.stop() == 0


def test_a_reload_that_hangs_fails_once(site: Site) -> None:
    """start_timeout is waited for once, whatever restart.period is; the old code serves."""
    listener = site.tcp()
    site.write("shop.py", APP.replace("{body}", "'one'"))
    text = (
        f'[sockets.web]\nbind = "{listener.bind}"\n[services.web]\napp = "shop:app"\npreload = false\n'
        "start_timeout = 2\nrestart = { period = 1 }\n"
    )
    server = site.up(text, listeners=[listener]).ready()
    server.expect_error(".*")
    gate = site.gate()
    site.write("shop.py", f"open({str(gate)!r}).readline()\n" + APP.replace("{body}", "'two'"))

    done = server.ctl("reload", "web", "--wait", "15")

    assert done.code == 1, done
    assert "not ready in 2 s" in done.err
    assert server.get("/").text == "one"
    assert server.stop() == 0
